"""FSDP2: a model sharded unit by unit, and what torch leaves to be done."""
