"""The main function of a script: the notebook's jobs in order, and what stands between them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from accelnb.export.exploring import computes, says_or_saves
from accelnb.export.parts import FROM_ENVIRONMENT
from accelnb.export.placing import Places
from accelnb.export.program import Phase, Program, Step
from accelnb.export.selection import Selection
from accelnb.export.statements import span_of
from accelnb.export.syntax import dotted, last_part
from accelnb.export.text import Headings, call_of, indented
from accelnb.export.words import SAY_NOTHING

# Calls after which there may be no process group.
ENDS_GROUP = ("destroy_process_group(", "end_training(")
_JOIN_AGAIN = """\
if not dist.is_initialized():  # what ran above may have ended it
    join_process_group()"""


@dataclass
class Body:
    """The text of the main function, and what it calls for.

    Attributes
    ----------
    of_rank : set of str
        Names such as ``rank`` that its own lines read.
    gathers : bool
        Whether values of all ranks are gathered.
    joins_again : bool
        Whether the process group may have to be made several times.
    """

    lines: list[str] = field(default_factory=list)
    of_rank: set[str] = field(default_factory=set)
    gathers: bool = False
    joins_again: bool = False


@dataclass(frozen=True)
class _Piece:
    text: str
    guard: str
    section: str
    cell: int
    gap: bool


def write_body(
    program: Program, selection: Selection, places: Places, headings: Headings, arguments: str
) -> Body:
    """Write the lines of the main function that come from the notebook."""
    body = Body()
    _prepare_jobs(program, selection, places, body)
    pieces = list(_pieces(program, selection, places, headings, arguments, body))
    section, cell, guard = headings.title, 0, ""
    for number, piece in enumerate(pieces):
        if piece.guard != guard:
            _end_guard(guard, body)
        new_section = piece.section != section and piece.section != ""
        has_begun = body.lines and not body.lines[-1].startswith("work_as(")
        if has_begun and (new_section or piece.gap or piece.cell not in (cell, 0)):
            body.lines.append("")
        if new_section:
            heading = f"# --- {piece.section} ---"
            inside = piece.guard and piece.guard == guard
            body.lines.append(indented(heading) if inside else heading)
        if piece.guard != guard and piece.guard:
            body.lines.append(f"if {_condition(piece.guard)}:")
        body.lines.append(indented(piece.text) if piece.guard else piece.text)
        section, cell, guard = piece.section or section, piece.cell or cell, piece.guard
        if number == len(pieces) - 1:
            _end_guard(guard, body)
    if any("rank ==" in piece.guard or "rank in" in piece.guard for piece in pieces):
        body.of_rank.add("rank")
    if any(piece.guard == "once" for piece in pieces):
        body.of_rank.add("local_rank")
    return body


def _condition(guard: str) -> str:
    return "local_rank == 0" if guard == "once" else guard


def _end_guard(guard: str, body: Body) -> None:
    if guard == "once":
        body.lines.append("dist.barrier()  # the others wait for the files")


def _pieces(
    program: Program,
    selection: Selection,
    places: Places,
    headings: Headings,
    arguments: str,
    body: Body,
) -> Iterator[_Piece]:
    side, phase = "ranks", None
    config = program.phases[0].config
    turns = takes_turns(program, places)
    ended = any(_ends_group(step) for step in places.definitions)
    for step in places.main:
        section, cell = headings.of(step.statement.cell), step.statement.cell.number
        if turns and side == "ranks" and _is_notebooks_work(step, program):
            side = "notebook"
            yield _Piece('work_as("notebook")', "", section, cell, gap=False)
        if step.phase and step.phase is not phase and not step.brought:
            if ended and phase is not None:
                body.joins_again = True
                yield _Piece(_JOIN_AGAIN, "", section, cell, gap=True)
            phase = step.phase
            if side == "notebook":
                side = "ranks"
                yield _Piece('work_as("ranks")', "", section, cell, gap=False)
            if changes := _changed_settings(phase, config):
                yield _Piece(changes, "", section, cell, gap=False)
            config = phase.config
        ended |= _ends_group(step)
        text = _text_of(step, places, arguments, body)
        if text:
            guard = _guard_of(step, program, selection, places)
            yield _Piece(text, guard, section, cell, step.statement.blank_before)


def _ends_group(step: Step) -> bool:
    return not step.brought and any(call in step.statement.text() for call in ENDS_GROUP)


def takes_turns(program: Program, places: Places) -> bool:
    """Return whether the notebook itself computes for its jobs."""
    return any(_is_notebooks_work(step, program) for step in places.main)


def takes_turns_twice(program: Program, places: Places) -> bool:
    """Return whether the notebook computes between jobs, so that random numbers interleave."""
    first = min(step.position for step in program.steps if step.phase)
    return any(_is_notebooks_work(s, program) and s.position > first for s in places.main)


def _is_notebooks_work(step: Step, program: Program) -> bool:
    if step.phase or step.brought or step.position > program.last_phase:
        return False
    return computes(step.statement, program.imported)


def _changed_settings(phase: Phase, before: object) -> str:
    lines = []
    for name, variable, _, _ in FROM_ENVIRONMENT:
        value = getattr(phase.config, name)
        if value != getattr(before, name):
            lines.append(f'os.environ["{variable}"] = "{value}"')
    return "\n".join(lines)


def _guard_of(step: Step, program: Program, selection: Selection, places: Places) -> str:
    if step.phase:
        ranks = step.phase.options.ranks
        if ranks is None or step.brought:
            return ""
        return f"rank == {ranks[0]}" if len(ranks) == 1 else f"rank in {ranks}"
    if step.position > program.last_phase or step in selection.reports:
        return "rank == 0"
    effect = step.effect
    does_more = effect.is_setting or effect.surely - step.binds or selection.used[step]
    if step not in places.parameters and effect.writes and not does_more:
        return "once"
    return ""


def _text_of(step: Step, places: Places, arguments: str, body: Body) -> str:
    if step.brought == "out":
        (name,) = step.binds
        if step.phase is None or step.phase.options.ranks is None:
            return ""  # the cell's last line binds it
        return _gathered(name, name, step.phase, body)
    if step.brought == "pull":
        (name,) = step.binds
        body.gathers = True
        return _gathered(name, f"{name}_of_ranks", step.phase, body)
    statement = step.statement
    if step in places.parameters:
        text = places.parameters[step].assignment(arguments)
    else:
        text = statement.text()
    return "\n".join([*statement.comments, text]) if text else ""


def _gathered(value: str, name: str, phase: Phase | None, body: Body) -> str:
    ranks = phase.options.ranks if phase else None
    if ranks is None:
        return call_of("from_all_ranks", value, f"{name} = ", indent=8)
    body.of_rank.add("rank")
    here = f"{value} if rank in {ranks} else None"
    chosen = ", ".join(f"{name}[{rank}]" for rank in ranks)
    return f"{name} = from_all_ranks({here})\n{name} = [{chosen}]"


# ---- what a job's last line becomes, and calls that launch ----


def _prepare_jobs(program: Program, selection: Selection, places: Places, body: Body) -> None:
    for step in places.main:
        if step.calls:
            _replace_calls(program, step, bool(selection.used[step]), body)
    for phase in program.phases:
        own = [s for s in places.main if s.phase is phase and s.on_ranks]
        out = [s for s in selection.kept if s.phase is phase and s.brought == "out"]
        if own and (own[-1].statement.is_last or out):
            _write_last(own[-1], phase, bool(out), body)


def _write_last(step: Step, phase: Phase, is_needed: bool, body: Body) -> None:
    statement, node = step.statement, step.statement.node
    name = phase.options.out
    if not isinstance(node, ast.Expr):
        return
    value = statement.source_of(node.value)
    if isinstance(node.value, ast.Tuple) and not value.startswith("("):
        value = f"({value})"
    if name and is_needed:
        body.gathers = True
        everywhere = phase.options.ranks is None
        new = call_of("from_all_ranks", value, f"{name} = ") if everywhere else f"{name} = {value}"
        statement.replace(node, new)
        return
    has_calls = any(isinstance(part, ast.Call) for part in ast.walk(node))
    if name or statement.is_silent:
        if not has_calls:
            statement.replace(node, "")
        return
    _show(step, value, has_calls, min(phase.options.ranks or (0,)), body)


def _show(step: Step, value: str, has_calls: bool, rank: int, body: Body) -> None:
    """Print what the notebook shows as a cell's value, on one rank."""
    statement, node = step.statement, step.statement.node
    assert isinstance(node, ast.Expr)
    if isinstance(node.value, ast.Call) and last_part(node.value) in SAY_NOTHING:
        return
    body.of_rank.add("rank")
    if not has_calls:
        statement.replace(node, f"if rank == {rank}:\n    print({value})")
        return
    test = f"if rank == {rank} and shown is not None:\n    print(shown)"
    statement.replace(node, f"shown = {value}\n{test}")


def _replace_calls(program: Program, step: Step, is_used: bool, body: Body) -> None:
    statement, node = step.statement, step.statement.node
    for call in step.calls:
        plain = program.launches.plain(statement, call)
        whole = isinstance(node, ast.Expr | ast.Assign) and node.value is call
        if whole and not is_used:
            statement.replace(node, plain)
            shows = isinstance(node, ast.Expr) and statement.is_last and not statement.is_silent
            if shows and dotted(call.func):
                statement.edits.clear()
                _show(step, plain, True, 0, body)
        else:
            body.gathers = True
            statement.replace(call, f"from_all_ranks({plain})")
    if not isinstance(node, ast.Expr | ast.Assign | ast.AugAssign | ast.AnnAssign):
        _report_once(step, body)


def _report_once(step: Step, body: Body) -> None:
    """Have one rank print and save what a loop around launches did once, in the notebook."""
    statement = step.statement
    for node in ast.walk(statement.node):
        if not isinstance(node, ast.stmt) or not says_or_saves(node):
            continue
        start, end = span_of(statement.code, node)
        margin = statement.code[:start].rpartition("\n")[2]
        is_alone = not margin.strip() and not statement.code[end:].lstrip(" ").startswith(";")
        if any(part in step.calls for part in ast.walk(node)):
            continue
        body.of_rank.add("rank")
        source = statement.source_of(node)
        if is_alone:
            statement.replace(node, f"if rank == 0:\n{margin}{indented(source)}")
        else:
            statement.replace(node, f"{source} if rank == 0 else None")
