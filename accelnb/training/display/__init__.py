"""`accelnb.show`: which weight of a model is split how over which ranks, as a picture."""
