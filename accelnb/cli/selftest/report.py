"""A self-test shown line by line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from accelnb.cli.selftest.steps import Step

if TYPE_CHECKING:
    from rich.console import Console

_MARKS = {"ok": "[green]✓[/green]", "failed": "[red]✗[/red]"}


def show(steps: Iterator[Step], console: Console) -> Step:
    """Print each step when it is over, on a terminal also the one under way; return the last.

    A test that passed gets a verdict; what to do about one that failed is the caller's to say.
    """
    from rich.markup import escape

    step = Step("start", "running")
    with console.status("") as under_way:
        for step in steps:
            if step.status == "running":
                under_way.update(step.name)
            else:
                said = escape(step.detail)
                line = f"{_MARKS[step.status]} {step.name:<18} {said}"
                console.print(line, highlight=False, soft_wrap=True)
    if step.status == "ok":
        console.print("This configuration works.", style="bold", highlight=False)
    return step
