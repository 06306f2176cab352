"""A model cut into stages, one on each process: `prepare` cuts, `running` computes."""
