"""What ``streams.py`` and ``values.py`` have in common: accelnb beside ipyparallel, in one run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from kernel import CellError, Kernel, machine
from peers import ipyparallel
from report import Budget, Samples, arguments, show_budgets, show_facts
from rich.console import Console
from rich.table import Table

Figures = dict[str, Samples]


@contextmanager
def ipyparallel_kernel(timeout: float) -> Iterator[Kernel]:
    """A kernel with two engines of ipyparallel."""
    with Kernel(timeout) as kernel:
        kernel.run(f"{ipyparallel.load}\n{ipyparallel.start[0]}".replace("<N>", "2"))
        yield kernel
        kernel.run(ipyparallel.stop)


def compare(
    doc: str | None,
    measure_accelnb: Callable[[int, float], Figures],
    measure_ipyparallel: Callable[[int, float], Figures],
    table: Callable[[Figures, Figures], Table],
    judged: Callable[[Figures, Figures], Sequence[Budget]],
    *,
    repeats: int,
    of_what: str,
) -> None:
    """Measure both and print the table and the budgets; without ipyparallel, accelnb alone."""
    parser = arguments(doc)
    parser.add_argument("--repeats", type=int, default=repeats, help=f"of {of_what} ({repeats})")
    parser.add_argument("--timeout", type=float, default=120, help="seconds a cell may take (120)")
    options = parser.parse_args()
    console = Console(width=132)
    show_facts(console, machine())
    own, px = measure_accelnb(options.repeats, options.timeout), {}
    if importlib.util.find_spec("ipyparallel") is not None:
        try:
            px = measure_ipyparallel(options.repeats, options.timeout)
        except CellError as error:
            console.print(f"ipyparallel: {error}", style="yellow", markup=False)
    console.print(table(own, px))
    show_budgets(console, judged(own, px))
