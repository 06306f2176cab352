"""Test: the configuration tried on ranks of its own, step by step, with a verdict."""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Iterable

from accelnb.cli.selftest import Step, self_test
from accelnb.notebook.panel.config_text import magic_line
from accelnb.notebook.panel.elements import Message, markup
from accelnb.options.config import LaunchConfig

_MARKS = {"running": "…", "ok": "✓", "failed": "✗"}
_ENDS_WITHIN = 5.0  # s after it was cancelled


class SelfTest:
    """A self-test in the background, and what it has found so far.

    Parameters
    ----------
    message
        Where the verdict is said.
    on_end
        Called, in the test's own thread, when it is over.
    """

    def __init__(self, message: Message, on_end: Callable[[], None]) -> None:
        self.widget = markup(kind="trial")
        self._message, self._on_end = message, on_end
        self._cancelled = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self, config: LaunchConfig) -> None:
        """Begin; the steps appear as they come."""
        self._cancelled = threading.Event()
        steps = self_test(config, self._cancelled)
        run = self._message.guard(lambda: self._follow(steps, config))
        self._message.say(
            "Testing on ranks of its own; those of the notebook are left alone.", "quiet"
        )
        self._thread = threading.Thread(target=run, name="accelnb-panel-test", daemon=True)
        self._thread.start()

    def clear(self) -> None:
        """Forget what the last one found."""
        self.widget.value = ""

    def cancel(self) -> None:
        """Have it end soon."""
        self._message.say("Stopping the test …", "quiet")
        self._cancelled.set()

    def close(self) -> None:
        """End it and wait for that."""
        self._cancelled.set()
        if self._thread is not None:
            self._thread.join(_ENDS_WITHIN)

    def _follow(self, steps: Iterable[Step], config: LaunchConfig) -> None:
        shown: dict[str, Step] = {}
        try:
            for step in steps:
                shown[step.name] = step
                self.widget.value = as_html(shown.values())
            last = list(shown.values())[-1]
            if last.status == "ok":
                self._message.say(f"✓ Test passed: {magic_line(config)}", "good")
            elif self._cancelled.is_set():
                self._message.say("The test was cancelled.", "quiet")
            else:
                self._message.say(f"✗ Test failed at {last.name}: {magic_line(config)}", "bad")
        finally:
            self._on_end()


def as_html(steps: Iterable[Step]) -> str:
    """Return the steps as a list, each with what it found."""
    rows = "".join(
        f'<tr class="accelnb-{step.status}"><td>{_MARKS[step.status]}</td>'
        f"<th>{html.escape(step.name)}</th><td>{html.escape(step.detail)}</td></tr>"
        for step in steps
    )
    return f'<table aria-label="Steps of the test">{rows}</table>'
