"""What a notebook does, step by step: statements, jobs on the ranks, values brought back."""

from __future__ import annotations

import ast
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from accelnb.devices import DEVICES
from accelnb.export.analysis.effect import Effect
from accelnb.export.analysis.effects import Effects
from accelnb.export.analysis.imported_names import Imported
from accelnb.export.analysis.known_names import MAGICS_LEFT_OUT
from accelnb.export.analysis.value_sources import roots
from accelnb.export.cells.hyper_parameters import not_an_option
from accelnb.export.cells.ipython_syntax import CellCode, read_cell
from accelnb.export.cells.notebook_file import Cell, ExportError
from accelnb.export.cells.statements import Statement, cut
from accelnb.export.cells.syntax import SCOPES, calls_in, dotted
from accelnb.export.steps.launch_calls import LaunchCalls
from accelnb.jupyter.cell_names import CellNames, analyse
from accelnb.options.config import CellOptions, LaunchConfig, from_mapping

# A rank has these of its own; what a notebook binds to them is not sent.
OF_A_RANK = ("rank", "local_rank", "world_size", "device", "mesh")
_ASYNC_LOOPS = (ast.AsyncFor, ast.AsyncWith, ast.comprehension)
_STAYS = ("procs", "device", "start")  # the next cell runs on the ranks that are there
_NOTEBOOK_ONLY = {
    "accelnb.last_run": "take the values from --out or --pull",
    "accelnb.pull": "use --pull on the %%distributed line",
    "accelnb.push": "bind the name before the %%distributed cell",
    "IPython.get_ipython": "a script has no IPython",
    "ipywidgets": "bind the value that the widget has",
}


@dataclass(eq=False)
class Phase:
    """One job on the ranks: a distributed cell, or a call that launches a function."""

    cell: Cell
    config: LaunchConfig
    options: CellOptions


@dataclass(eq=False)
class Step:
    """A statement at its place in the program, or a value that is brought back from the ranks.

    Attributes
    ----------
    on_ranks : bool
        Whether it runs on the ranks; else in the notebook.
    brought : str
        ``out`` or ``pull`` for a value that comes back; else empty.
    phase : Phase or None
        The job that it belongs to.
    no_form : str
        Why it cannot be in a script, and what to do; empty if it can.
    """

    position: int
    statement: Statement
    names: CellNames
    on_ranks: bool = False
    brought: str = ""
    phase: Phase | None = None
    no_form: str = ""
    effect: Effect = field(default_factory=Effect)
    calls: list[ast.Call] = field(default_factory=list)  # that launch ranks

    @property
    def reads(self) -> frozenset[str]:
        return self.names.at_once

    @property
    def later(self) -> frozenset[str]:
        return self.names.later

    @property
    def changes(self) -> set[str]:
        return self.effect.changes

    @property
    def binds(self) -> frozenset[str]:
        return self.names.bound

    @property
    def surely(self) -> frozenset[str]:
        return self.names.surely


@dataclass
class Program:
    """A notebook as steps in the order in which they ran."""

    steps: list[Step]
    phases: list[Phase]
    imported: Imported
    launches: LaunchCalls
    effects: Effects
    requirements: list[str]
    imports: set[str]
    notes: list[str]
    scripts: list[str] = field(default_factory=list)  # that `%run` ran, each with its place

    @functools.cached_property
    def last_phase(self) -> int:
        """The position of the last step of a job, when all have been read."""
        return max(step.position for step in self.steps if step.phase)

    def launched_changes(self, step: Step) -> frozenset[str]:
        """Return the names whose values change on the ranks only, that a step launches."""
        found: set[str] = set()
        for call in step.calls:
            function, given = self.launches.function_of(call)
            for known in self.effects.called(function) if function else ():
                found |= known.effect.surely | known.effect.rebinds
                if known.surely_changed_parameters:
                    found = found.union(*(roots(value, {}, self.imported) for value in given))
        return frozenset(found)


def read_program(cells: Iterable[Cell], base: LaunchConfig) -> Program:
    """Read the code cells of a notebook in the order in which they ran.

    Raises
    ------
    ExportError
        A cell is not Python, nothing in it runs on ranks, or what runs there has no script form.
    """
    codes = _read_cells(cells)
    cut_cells = [(code, list(cut(code.cell, code.code, code.tree))) for code in codes]
    modules = {name for code in codes for name in code.imports}
    imported = Imported([statement for _, cell in cut_cells for statement in cell], modules)
    launches = LaunchCalls(imported)
    effects = Effects([s.node for _, cell in cut_cells for s in cell], imported)
    program = Program([], [], imported, launches, effects, [], set(), [])
    for code, statements in cut_cells:
        program.requirements += [r for r in code.requirements if r not in program.requirements]
        program.imports |= code.imports
        if code.skipped:
            program.notes.append(f"{code.cell.place()} is left out: {code.skipped}")
        elif code.options is not None:
            _add_job(program, code, statements, base)
        else:
            for statement in statements:
                _add_ordinary(program, statement, base)
    if not any(step.phase for step in program.steps):
        raise ExportError(
            "no cell runs on ranks: put %%distributed on the cell that trains, or call "
            "accelnb.launch(...) or notebook_launcher(...), and run it"
        )
    return program


def _read_cells(cells: Iterable[Cell]) -> list[CellCode]:
    codes = [read_cell(cell) for cell in cells]
    bound = {*OF_A_RANK, *(name for code in codes for name in analyse(code.code).bound)}
    return [read_cell(code.cell, bound) if "$" in code.cell.source else code for code in codes]


def _add_job(
    program: Program, code: CellCode, statements: Sequence[Statement], base: LaunchConfig
) -> None:
    phase = _phase(program, code.cell, code.options or {}, base)
    program.phases.append(phase)
    for statement in statements:
        if _keep_on_ranks(program, statement):
            _add(program, statement, on_ranks=True, phase=phase)
    if statements:
        _add_brought(program, phase, statements[-1])


def _add_brought(program: Program, phase: Phase, last: Statement) -> None:
    out = [("out", phase.options.out)] if phase.options.out else []
    for kind, name in [*out, *(("pull", name) for name in phase.options.pull)]:
        bound = frozenset((name,))
        names = CellNames(bound=bound, surely=bound)
        step = Step(len(program.steps), last, names, brought=kind, phase=phase)
        if phase.options.detach:
            step.no_form = "a Run of the background is nothing in a script: leave --detach out"
        program.steps.append(step)


def _add_ordinary(program: Program, statement: Statement, base: LaunchConfig) -> None:
    program.launches.undecorate(statement)
    if calls := program.launches.found_in(statement):
        given = program.launches.options(statement, calls[0])
        phase = _phase(program, statement.cell, given, base)
        program.phases.append(phase)
        _add(program, statement, phase=phase, calls=calls)
        return
    magics = _ipython_calls(statement.node)
    if magics and isinstance(statement.node, ast.Expr):
        _leave_out_magic(program, statement, magics[0])
        return
    if name := not_an_option(statement):
        program.notes.append(
            f"{statement.place()}: {name} is no option of the script: options are numbers, texts, "
            "True or False, None, and lists of numbers or texts"
        )
    if _is_device(statement):
        return  # every process of the script has its own
    why_not = _why_notebook_only(program, statement, bool(magics))
    _add(program, statement, no_form=why_not or _run_awaited(program, statement))


def _add(program: Program, statement: Statement, **more: Any) -> None:
    step = Step(len(program.steps), statement, statement.names, **more)
    is_shown = statement.is_last and not statement.is_silent
    step.effect = program.effects.of(statement.node, is_shown=is_shown)
    program.steps.append(step)


def _phase(program: Program, cell: Cell, given: dict[str, Any], base: LaunchConfig) -> Phase:
    before = program.phases[-1].config if program.phases else base
    stays = {name: getattr(before, name) for name in _STAYS}
    config = from_mapping(LaunchConfig, {**stays, **given}, base)
    return Phase(cell, config, from_mapping(CellOptions, given))


def _run_awaited(program: Program, statement: Statement) -> str:
    """Have ``asyncio.run(f())`` for ``await f()``: a script has no event loop that runs.

    Returns why a statement has no such form, and what to do; an empty text if it has.
    """
    for node in _awaits_at_top(statement.node):
        program.imports.add("asyncio")
        call = node.value if isinstance(node, ast.Await) else None
        path = program.imported.path(call.func) if isinstance(call, ast.Call) else "asyncio."
        if call is None or (path.startswith("asyncio.") and path != "asyncio.sleep"):
            return (
                "it awaits outside of a function, and a script has no running event loop: put "
                "it into an `async def` function, and await that"
            )
        statement.replace(node, f"asyncio.run({statement.source_of(call)})")
    return ""


def _awaits_at_top(node: ast.AST) -> Iterator[ast.AST]:
    """Return what awaits outside of functions, the innermost first."""
    if isinstance(node, SCOPES):
        return
    for child in ast.iter_child_nodes(node):
        yield from _awaits_at_top(child)
    is_async = isinstance(node, _ASYNC_LOOPS) and getattr(node, "is_async", True)
    if isinstance(node, ast.Await) or is_async:
        yield node


def _keep_on_ranks(program: Program, statement: Statement) -> bool:
    """Translate what IPython adds in a statement of a distributed cell; return whether it stays."""
    if why_not := _run_awaited(program, statement):
        raise ExportError(f"{statement.place()}: {why_not}")
    for call in _ipython_calls(statement.node):
        kind, magic, text = _magic_of(call)
        if kind == "system":
            if "{" in text or "$" in text:
                raise ExportError(
                    f"{statement.place()}: !{text}: the command reads variables; call "
                    "subprocess.run with them"
                )
            statement.replace(call, f"subprocess.run({text!r}, shell=True, check=False)")
            program.imports.add("subprocess")
        elif magic in MAGICS_LEFT_OUT and _is_all(statement, call):
            program.notes.append(f"{statement.place()} is left out: %{magic}")
            return False
        else:
            shown = f"!{text}" if kind == "getoutput" else f"%{magic}"
            raise ExportError(
                f"{statement.place()}: {shown} has no script form: write it in Python, or take it "
                "out of the distributed cell"
            )
    return True


def _is_all(statement: Statement, call: ast.Call) -> bool:
    return isinstance(statement.node, ast.Expr) and statement.node.value is call


def _leave_out_magic(program: Program, statement: Statement, call: ast.Call) -> None:
    kind, magic, text = _magic_of(call)
    if magic == "accelnb" and text.startswith("pull") and program.phases:
        names, _, ranks = text.removeprefix("pull").partition("--ranks")
        given = {"pull": ",".join(names.replace(",", " ").split())}
        given |= {"ranks": ranks.strip(" =")} if ranks else {}
        options = from_mapping(CellOptions, given)
        _add_brought(program, dataclasses.replace(program.phases[-1], options=options), statement)
        return
    if magic in ("load_ext", "accelnb", "matplotlib", "reload_ext", "autoreload", "config"):
        return  # of the notebook alone
    shown = f"!{text}" if kind in ("system", "getoutput") else f"%{magic} {text}".rstrip()
    program.notes.append(f"{statement.place()} is left out: {shown}")
    if magic == "run":
        program.scripts.append(f"{shown} ({statement.place()})")


def _ipython_calls(node: ast.AST) -> list[ast.Call]:
    """Return the calls that IPython makes of magics and shell commands."""
    return [
        call
        for call in calls_in(node)
        if isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Call)
        and dotted(call.func.value.func) == "get_ipython"
    ]


def _magic_of(call: ast.Call) -> tuple[str, str, str]:
    """Return what an IPython call is: its kind, the magic's name, its text."""
    assert isinstance(call.func, ast.Attribute)
    kind = call.func.attr
    texts = [str(arg.value) for arg in call.args if isinstance(arg, ast.Constant)]
    if kind == "run_line_magic":
        return kind, texts[0], texts[1] if len(texts) > 1 else ""
    return kind, "", texts[0] if texts else ""


def _is_device(statement: Statement) -> bool:
    """Return whether all it does is choose the notebook's device."""
    if statement.names.bound != {"device"} or not isinstance(statement.node, ast.Assign):
        return False
    words = {"torch.device", *(device.type for device in DEVICES.values())}
    return any(word in statement.source_of(statement.node.value) for word in words)


def _why_notebook_only(program: Program, statement: Statement, has_magic: bool) -> str:
    if has_magic or "get_ipython" in statement.names.at_once:
        return "it has no script form, for it needs IPython: write it in Python"
    node = statement.node
    for part in ast.walk(node):
        path = program.imported.path(part)
        if do := _NOTEBOOK_ONLY.get(path) or _NOTEBOOK_ONLY.get(path.partition(".")[0]):
            return f"{ast.unparse(part)} has no script form: {do}"
    if not statement.is_definition and any(dotted(c.func) == "input" for c in calls_in(node)):
        return "input() has no script form: bind the value, in a cell tagged `parameters` say"
    if not statement.is_definition and (own := statement.names.bound & {*OF_A_RANK[:3]}):
        name = min(own)
        return f"{name} is each process's own number in a script: give it another name"
    return ""
