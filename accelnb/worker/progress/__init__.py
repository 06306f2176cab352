"""Progress bars in a rank: the notebook shows them as bars, not as text.

A bar of tqdm or rich that would draw to the rank's own stdout or stderr tells its state instead.
The link thread sends the newest states, a few times a second.
"""

from __future__ import annotations

import os

from accelnb.engine.process.import_hooks import when_imported
from accelnb.worker.progress import of_rich, of_tqdm
from accelnb.worker.progress.bars import Bars, tell_to


def watch(bars: Bars) -> None:
    """Have the bars of this process, and of no fork of it, tell `bars` their states."""
    tell_to(bars)
    os.register_at_fork(after_in_child=lambda: tell_to(None))
    when_imported(
        {
            "tqdm.std": of_tqdm.hook,
            "tqdm.notebook": of_tqdm.hook_notebook,
            "rich.progress": of_rich.hook,
        }
    )
