"""Layers of a model divided over ranks: each computes a part of every layer."""
