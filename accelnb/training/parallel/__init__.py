"""How processes train one model: a `Plan` applied on a `Mesh` by `parallelize`.

A `Strategy` is what the Accelerator asks of the result. A new one is a module here and a line in
`parallelize.STRATEGIES`, and a choice of the option in ``options/config.py``.
"""
