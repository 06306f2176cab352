"""What the code of a notebook does: names, functions, effects."""
