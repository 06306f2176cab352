"""Run quickstart.ipynb headless, show what it did, and keep the result under build/demo/."""

from __future__ import annotations

import math
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text
from traitlets.config import Config

NOTEBOOK = Path(__file__).with_name("quickstart.ipynb")
OUT = Path(__file__).parents[1] / "build" / "demo"
CELL_TIMEOUT = 300  # seconds
LEAST_ACCURACY = 0.95


def output_text(cell: NotebookNode) -> str:
    """Return what `cell` printed and displayed, as text (colours are ANSI codes)."""
    parts = []
    for output in cell.outputs:
        if output.output_type == "stream":
            parts.append(output.text)
        elif output.output_type == "error":
            parts.append("\n".join(output.traceback))
        else:
            parts.append(output.data.get("text/plain", "") + "\n")
    return "".join(parts).rstrip()


class Demo:
    """One run of the notebook: a line for each cell that is done, a bar for the one that runs."""

    def __init__(self, notebook: NotebookNode, console: Console) -> None:
        self.notebook = notebook
        self.console = console
        self.cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        self.number = 0  # of the cell that runs or ran last; the first is 1
        self.started_at = 0.0
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self.task = self.progress.add_task(NOTEBOOK.name, total=len(self.cells))

    @property
    def title(self) -> str:
        first_line = self.cells[self.number - 1].source.partition("\n")[0]
        return f"cell {self.number:2} of {len(self.cells)}  {first_line}"

    def cell_started(self, cell: NotebookNode, cell_index: int) -> None:
        self.number += 1
        self.started_at = time.monotonic()
        self.progress.update(self.task, description=self.title)

    def cell_done(self, cell: NotebookNode, cell_index: int, execute_reply: dict[str, Any]) -> None:
        if execute_reply["content"]["status"] != "ok":
            return
        seconds = time.monotonic() - self.started_at
        line = f"{seconds:5.1f} s  {self.title}"
        self.console.print(Text(line), no_wrap=True, overflow="ellipsis")
        if cell.source.startswith("%%distributed"):
            self.console.print(Panel(Text.from_ansi(output_text(cell)), title="from the ranks"))
        self.progress.advance(self.task)

    def run(self) -> None:
        client = NotebookClient(
            self.notebook,
            timeout=CELL_TIMEOUT,
            config=Config({"KernelManager": {"transport_encryption": "auto"}}),
            resources={"metadata": {"path": str(NOTEBOOK.parent)}},
            on_cell_execute=self.cell_started,
            on_cell_executed=self.cell_done,
        )
        with self.progress:
            client.execute()

    def accuracy(self) -> float:
        """Return the test accuracy that the notebook printed; nan if it printed none."""
        printed = "\n".join(output_text(cell) for cell in self.cells)
        found = re.search(r"^test accuracy: ([01]\.\d+)$", printed, re.MULTILINE)
        return float(found[1]) if found else math.nan


def save(notebook: NotebookNode) -> list[Path]:
    """Write the executed notebook and its HTML; return where they lie."""
    OUT.mkdir(parents=True, exist_ok=True)
    paths = [OUT / NOTEBOOK.name, OUT / f"{NOTEBOOK.stem}.html"]
    nbformat.write(notebook, paths[0])
    html, _ = HTMLExporter().from_notebook_node(
        notebook, resources={"metadata": {"name": NOTEBOOK.stem}}
    )
    paths[1].write_text(html, encoding="utf-8")
    return paths


def main() -> int:
    console = Console()
    demo = Demo(nbformat.read(NOTEBOOK, as_version=4), console)
    problem = ""
    try:
        demo.run()
    except CellExecutionError:  # its traceback is among the cell's outputs
        problem = output_text(demo.cells[demo.number - 1])
    except (CellTimeoutError, DeadKernelError) as error:
        problem = str(error)
    if problem:
        title = Text(f"failed: {demo.title}")
        console.print(Panel(Text.from_ansi(problem), title=title, border_style="red"))
    else:
        accuracy = demo.accuracy()
        enough = accuracy >= LEAST_ACCURACY
        console.print(
            f"test accuracy: {accuracy:.3f}", style="bold green" if enough else "bold red"
        )
        if not enough:
            problem = f"the accuracy is not at least {LEAST_ACCURACY}"
            console.print(problem, style="red")
    for path in save(demo.notebook):
        console.print(f"written: {os.path.relpath(path)}")
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
