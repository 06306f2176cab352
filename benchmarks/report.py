"""The samples of ``launch.py``, and how all benchmarks show theirs: tables, and the budgets."""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

Samples = list[float]


@dataclass
class Result:
    """One contender at one number of ranks, over all its kernels: seconds and MB."""

    contender: str
    ranks: int
    load: Samples = field(default_factory=list)
    torch_imported: bool = False
    start: Samples = field(default_factory=list)
    cold: Samples = field(default_factory=list)
    first: Samples = field(default_factory=list)
    warm: Samples = field(default_factory=list)
    floor: Samples = field(default_factory=list)
    memory: Samples = field(default_factory=list)
    helpers: Samples = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def above(self) -> float | None:
        """A warm cell's p50 above the floor."""
        return median(self.warm) - median(self.floor) if self.warm else None


@dataclass(frozen=True)
class Budget:
    """One promise about speed; `met` is None where it could not be measured."""

    budget: str
    measured: str
    met: bool | None


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the module's text."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def new_table(title: str, *headings: str, no_wrap: bool = False) -> Table:
    """A table of names, on the left, and of figures."""
    shown = Table(title=title, title_justify="left", title_style="bold")
    for heading in headings:
        shown.add_column(
            heading, justify="left" if heading == headings[0] else "right", no_wrap=no_wrap
        )
    return shown


def write_json(path: Path, budgets: Sequence[Budget], samples: Mapping[str, Any]) -> None:
    """Write all samples, and what came of the budgets."""
    report = {**samples, "budgets": [asdict(budget) for budget in budgets]}
    path.write_text(json.dumps(report, indent=1) + "\n")


def p99(samples: Samples) -> float:
    """The 99th percentile by nearest rank: with less than 100 samples, the largest one."""
    return sorted(samples)[math.ceil(0.99 * len(samples)) - 1]


def duration(seconds: float) -> str:
    """Seconds for people: three figures, in ms or s."""
    if abs(seconds) >= 0.9995:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.{1 if abs(seconds) < 0.1 else 0}f} ms"


def megabytes(value: float) -> str:
    return f"{value:.0f} MB"


Column = tuple[str, Callable[[Result], float | None], Callable[[float], str], bool]


def middle(name: str) -> Callable[[Result], float | None]:
    """Read the median of a field of samples, None without samples."""
    return lambda row: median(getattr(row, name)) if getattr(row, name) else None


# Heading, value, form, and whether the ratio to the reference is shown.
COLUMNS: tuple[Column, ...] = (
    ("load", middle("load"), duration, False),
    ("start", middle("start"), duration, True),
    ("cold", middle("cold"), duration, True),
    ("first cell", middle("first"), duration, True),
    ("warm p50", middle("warm"), duration, True),
    ("p99", lambda row: p99(row.warm) if row.warm else None, duration, False),
    ("pass", middle("floor"), duration, False),
    ("above pass", lambda row: row.above, duration, True),
    ("PSS a rank", middle("memory"), megabytes, True),
    ("helpers", middle("helpers"), megabytes, False),
)


def table(rows: Sequence[Result]) -> Table:
    """The contenders at one number of ranks."""
    reference = next((row for row in rows if row.contender == "accelnb" and row.warm), None)
    headings = (heading for heading, *_ in COLUMNS)
    shown = new_table(f"{rows[0].ranks} ranks", "contender", *headings, no_wrap=True)
    for row in rows:
        cells: list[str] = []
        for _, value, form, with_ratio in COLUMNS:
            number = value(row)
            text = "-" if number is None else form(number)
            base = value(reference) if reference and reference is not row else None
            if with_ratio and number is not None and base is not None and base > 0:
                text += f"\n[dim]{number / base:.1f}x[/dim]"
            cells.append(text)
        shown.add_row(row.contender, *cells)
    return shown


def show_facts(console: Console, facts: Mapping[str, str]) -> None:
    """Print what the figures depend on."""
    console.print(", ".join(f"{name} {value}" for name, value in facts.items()), markup=False)


def show(
    console: Console, facts: Mapping[str, str], results: Sequence[Result], imports: Samples
) -> list[Budget]:
    """Print machine, tables, remarks and budgets; return the budgets."""
    show_facts(console, facts)
    for ranks in dict.fromkeys(result.ranks for result in results):
        rows = [result for result in results if result.ranks == ranks]
        console.print(table(rows))
        for row in rows:
            for note, times in Counter(row.notes).items():
                often = f" ({times} times)" if times > 1 else ""
                console.print(f"  {row.contender}: {note}{often}", style="yellow", markup=False)
    console.print("Medians (p99 apart); x is the multiple of accelnb's figure. See --help.")
    found = budgets(results, imports)
    show_budgets(console, found)
    return found


def show_budgets(console: Console, found: Sequence[Budget]) -> None:
    """Print what each budget asks for and whether it was met."""
    verdicts = Table(title="Budgets", title_justify="left", title_style="bold")
    for heading in ("budget", "measured", ""):
        verdicts.add_column(heading)
    words = {True: "[green]met[/green]", False: "[red]missed[/red]", None: "not measured"}
    for budget in found:
        verdicts.add_row(budget.budget, budget.measured, words[budget.met])
    console.print(verdicts)


def budgets(results: Sequence[Result], imports: Samples) -> list[Budget]:
    """Judge what was measured against the budgets of the design, all at 2 ranks."""

    def row(name: str) -> Result:
        found = (r for r in results if r.contender == name and r.ranks == 2)
        return next(found, Result(name, 2))

    own, launcher, px = row("accelnb"), row("notebook_launcher"), row("ipyparallel")
    loads = [second for r in results if r.contender == "accelnb" for second in r.load]
    torch = any(r.torch_imported for r in results if r.contender == "accelnb")
    found: list[Budget] = []

    def judge(budget: str, ready: bool, read: Callable[[], tuple[str, bool]]) -> None:
        measured, met = read() if ready else ("", None)
        found.append(Budget(budget, measured, met))

    judge(
        "%load_ext accelnb ≤ 150 ms, torch not imported",
        bool(loads),
        lambda: (
            f"{duration(median(loads))}, torch {'imported' if torch else 'not imported'}",
            median(loads) <= 0.150 and not torch,
        ),
    )
    judge(
        "import accelnb ≤ 60 ms",
        bool(imports),
        lambda: (duration(median(imports)), median(imports) <= 0.060),
    )

    def first() -> tuple[str, bool]:
        # The launcher's later calls are faster than its first one: judge by the harder of the two.
        mine, theirs = median(own.first), median(launcher.first)
        again = median(launcher.warm) if launcher.warm else theirs
        text = (
            f"{duration(mine)}: {mine / theirs:.2f} x its first call ({duration(theirs)}), "
            f"{mine / again:.2f} x a later one ({duration(again)})"
        )
        return text, mine <= 0.5 * min(theirs, again)

    judge("first cell ≤ 0.5 x notebook_launcher", bool(own.first and launcher.first), first)

    def warm() -> tuple[str, bool]:
        cost = own.above or 0.0
        text = f"{duration(cost)} above ({duration(median(own.warm))})"
        return text, cost <= 0.003

    judge("warm cell ≤ 3 ms above a pass cell", bool(own.warm), warm)

    def faster() -> tuple[str, bool]:
        ratio = median(px.warm) / median(own.warm)
        text = f"{ratio:.1f} x faster, the pass cell included"
        if own.above and px.above and own.above > 0:
            text += f"; {px.above / own.above:.1f} x above it"
        return text, ratio >= 3

    judge("warm cell ≥ 3 x faster than %%px", bool(own.warm and px.warm), faster)
    return found
