"""What code calls inside a rank, in a torchrun script or in a single process.

It imports nothing of the notebook, the engine or the worker.
"""
