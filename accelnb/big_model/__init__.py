"""Models that do not fit where they compute: device maps, weights kept on CPU or disk, hooks."""
