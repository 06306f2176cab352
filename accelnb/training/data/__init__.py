"""Loaders that give each rank its part of the data, and know where they are in it."""
