"""Settings of the notebook's process that its ranks hold too: one table, a row a setting.

Each is made once at the top of a notebook and never named again, so that no cell shows that it
is needed. Ranks start with those that differ from the library's default, and are told again when
one changed. A library that the notebook has not imported has nothing to hold, and is not imported
to see that. The states of random number generators are not held: ranks seed themselves.
"""

from __future__ import annotations

from accelnb.engine.settings import of_libraries, of_logging, of_python, of_torch

TABLE = (
    *of_torch.SETTINGS,
    *of_libraries.SETTINGS,
    *of_python.SETTINGS,
    of_logging.CAPTURE,
    of_logging.LOGGERS,
)
BY_NAME = {setting.name: setting for setting in TABLE}
