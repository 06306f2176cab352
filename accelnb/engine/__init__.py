"""The ranks of a notebook, from its own process.

What a rank's process (`accelnb.worker`) needs too is in `wire`, `process`, `serialization` and
`settings`, which import nothing else from here. The worker imports only these; the engine does not
import the worker.
"""
