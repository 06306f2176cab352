"""The way back: a script as a notebook."""
