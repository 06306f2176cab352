"""Other packages' names for what accelnb has, for code that was written for them."""
