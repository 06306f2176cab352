"""Models that are divided before they have values, and filled part by part."""
