"""A notebook's file as cells, and cells as Python statements."""
