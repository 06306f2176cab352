"""The text of a script, put together of the notebook's parts."""

from __future__ import annotations

import ast
import re
import textwrap
from dataclasses import dataclass

from accelnb.export import parts
from accelnb.export.imported_names import Imported
from accelnb.export.main_body import ENDS_GROUP, Body, takes_turns, takes_turns_twice, write_body
from accelnb.export.notebook_file import ExportError, Notebook
from accelnb.export.parameters import parser_text
from accelnb.export.placing import Places, aliases, of_rank_shared, place
from accelnb.export.program import Program, Step
from accelnb.export.selection import Selection
from accelnb.export.syntax import dotted, executed
from accelnb.export.text import WIDTH, Headings, comment, headings_of, imports_text, indented, tidy
from accelnb.options.config import LaunchConfig


@dataclass(frozen=True)
class _Names:
    """Names of the script's own functions, such as the notebook does not use."""

    main: str
    parse_arguments: str
    args: str


def write_script(notebook: Notebook, program: Program, selection: Selection, file_name: str) -> str:
    """Write the script of what was selected of a notebook.

    Raises
    ------
    ExportError
        Something of it has no script form.
    """
    _take_ipython_out(program, selection)
    _mean_the_module(selection)
    _name_pulled(selection)
    places = place(program, selection)
    _leave_annotations_out(places)
    headings = headings_of(notebook)
    names = _own_names(selection)
    body = write_body(program, selection, places, headings, names.args)
    config = program.phases[0].config
    of_rank = selection.of_rank | body.of_rank
    main = _main_text(program, places, body, of_rank, names, config)
    helpers = _helpers(program, selection, places, body, names, config)
    definitions = _definitions(places, headings)
    constants = _constants(places, config)
    written = "\n".join([constants, definitions, *helpers, main])
    sections = [
        _document(notebook, headings, program, config, file_name),
        _imports(program, selection, places, written),
        constants,
        definitions,
        *helpers,
        main,
        _guard_text(names, f"{definitions}\n{main}"),
    ]
    text = _joined(sections)
    _check(text, file_name)
    return tidy(text)


def _joined(sections: list[str]) -> str:
    """Put one empty line between the parts above, two around functions and classes."""
    present = [section.strip("\n") for section in sections]
    text = ""
    for number, section in enumerate(present):
        if section:
            is_comment = section.startswith("#") and number == 3 and not present[2]
            gap = "\n\n" if number < 3 or is_comment else "\n\n\n"
            text += (gap if text else "") + section
    return text + "\n"


def _check(text: str, file_name: str) -> None:
    try:
        compile(text, file_name, "exec", dont_inherit=True)
    except SyntaxError as error:
        line = text.splitlines()[(error.lineno or 1) - 1].strip()
        raise ExportError(
            f"the script would not be Python ({error.msg} at: {line}): move this part of the "
            "notebook into a function"
        ) from None


# ---- the parts ----


def _document(
    notebook: Notebook, headings: Headings, program: Program, config: LaunchConfig, file_name: str
) -> str:
    title = headings.title or f"Training of {notebook.name}"
    title = title.rstrip(".").replace("\\", "/").replace('"""', "'''")
    procs = max((p.config.procs or 2 for p in program.phases), default=2)
    commands = [
        (f"python {file_name}", "one process"),
        (
            f"torchrun --nproc-per-node {procs} {file_name}",
            f"{procs} processes, as in the notebook",
        ),
        (f"accelnb launch --procs {procs} {file_name}", "the same"),
    ]
    width = max(len(command) for command, _ in commands)
    shown = "\n".join(f"    {command:{width}}    {what}" for command, what in commands)
    first = textwrap.fill(title if title.endswith(("?", "!", ":")) else f"{title}.", WIDTH - 3)
    document = f'"""{first}\n\nExported from {notebook.name}. Start it with one of\n\n{shown}\n"""'
    if not program.requirements:
        return document
    listed = "".join(f"\n#     {requirement}" for requirement in program.requirements)
    return f"{document}\n\n# Requirements, as the notebook installs them with pip:{listed}"


def _imports(program: Program, selection: Selection, places: Places, written: str) -> str:
    found: list[tuple[str, str]] = []
    others: list[str] = []
    for step in places.imports:
        if not step.statement.is_import:
            others.append("\n".join([*step.statement.comments, step.statement.text()]))
            continue
        for text, name in aliases(step):
            is_used = name in selection.used[step] and re.search(rf"\b{name}\b", written)
            if name == "*" or is_used or _is_for_effect(text, step):
                found.append((text, step.statement.after))
    for module in sorted(program.imports):
        if f"{module}." in written:
            found.append((f"import {module}", ""))
    for text, sign in (
        ("import os", "os."),
        ("import argparse", "argparse."),
        ("import itertools", "itertools."),
        ("from torch.distributed.rendezvous import rendezvous", "rendezvous("),
        ("import torch", "torch."),
        ("import torch.distributed as dist", "dist."),
        ("from typing import Any", "Any]"),
        ("from torch.distributed.device_mesh import init_device_mesh", "init_device_mesh("),
    ):
        if sign in written:
            found.append((text, ""))
    again = _for_early(places)
    found = [entry for entry in found if entry[0] not in again]
    stands_in = [text for text, _ in found if text.startswith("import accelnb.compat")]
    found = [entry for entry in found if entry[0] not in stands_in]
    first = "\n".join(f"{text}  # before all others: it stands in" for text in stands_in[:1])
    every = (_early(places), first, imports_text(found), *others)
    return "\n\n".join(part for part in every if part)


def _for_early(places: Places) -> list[str]:
    """Return the imports that the settings above all other imports need."""
    read = {name for step in places.early for name in step.reads}
    return [text for step in places.imports for text, name in aliases(step) if name in read]


def _early(places: Places) -> str:
    """Return the settings that the imports below them see."""
    lines = [imports_text([(text, "") for text in _for_early(places)]), ""]
    for step in places.early:
        lines += [*step.statement.comments, step.statement.text()]
    return "\n".join(lines) if places.early else ""


def _is_for_effect(text: str, step: Step) -> bool:
    """Return whether an import stays although nothing reads its name."""
    if ".display import" in text:
        return False
    return step.on_ranks or text.startswith(("import accelnb.compat", "from __future__"))


def _constants(places: Places, config: LaunchConfig) -> str:
    lines = [
        f"{constant} = {value}  # {what}" for constant, value, what, _ in parts.settings(config)
    ]
    for step in places.constants:
        lines += [*step.statement.comments, step.statement.text()]
    return "\n".join(lines)


def _definitions(places: Places, headings: Headings) -> str:
    written, section = [], headings.title
    for step in places.definitions:
        statement = step.statement
        text = "\n".join([*statement.comments, statement.text()])
        if (own := headings.of(statement.cell)) and own != section:
            written.append(f"# --- {own} ---")
            section = own
        written.append(text)
    return "\n\n\n".join(written)


def _helpers(
    program: Program,
    selection: Selection,
    places: Places,
    body: Body,
    names: _Names,
    config: LaunchConfig,
) -> list[str]:
    turns = takes_turns(program, places)
    found = []
    if parameters := list(places.parameters.values()):
        found.append(parser_text(parameters, names.parse_arguments))
    found.append(
        parts.join_text(
            config,
            makes_group=not _makes_own_group(selection),
            shares_cores=not turns,
            several=body.joins_again,
        )
    )
    if turns:
        twice = takes_turns_twice(program, places)
        found.append(parts.WORK_AS_WITH_RANDOM_NUMBERS if twice else parts.WORK_AS)
    if body.gathers:
        found.append(parts.GATHER)
    return found


def _main_text(
    program: Program,
    places: Places,
    body: Body,
    of_rank: set[str],
    names: _Names,
    config: LaunchConfig,
) -> str:
    lines = [f"def {names.main}() -> None:"]
    shared = sorted(places.shared | of_rank_shared(places, of_rank))
    lines += [f"    {line}" for line in _global_lines(shared)]
    if places.parameters:
        lines.append(f"    {names.args} = {names.parse_arguments}()")
    meshes = {phase.config.mesh for phase in program.phases if phase.config.mesh}
    if len(meshes) > 1:
        raise ExportError("the cells use several meshes: a script has one; make them equal")
    needs_device = "device" in of_rank or "mesh" in of_rank
    lines.append(f"    {'device = ' if needs_device else ''}join_process_group()")
    for name, value in (
        ("rank", 'int(os.environ["RANK"])'),
        ("local_rank", 'int(os.environ["LOCAL_RANK"])'),
        ("world_size", 'int(os.environ["WORLD_SIZE"])'),
    ):
        if name in of_rank:
            lines.append(f"    {name} = {value}")
    if "mesh" in of_rank:
        lines.append(indented(parts.mesh_text(meshes.pop())))
    return "\n".join([*lines, "", indented("\n".join(body.lines))])


def _guard_text(names: _Names, code: str) -> str:
    """Return what starts the script.

    The group ends when the models of the main function are gone: torch can wait forever for its
    own thread where the last reference to a group is a model's.
    """
    ends = (*ENDS_GROUP, "init_process_group(")
    start = f'if __name__ == "__main__":\n    {names.main}()\n'
    if any(word in code for word in ends):
        return f"{start}    if dist.is_initialized():\n        dist.destroy_process_group()"
    return f"{start}    dist.destroy_process_group()  # when the models of {names.main}() are gone"


def _global_lines(names: list[str]) -> list[str]:
    if not names:
        return []
    listed = textwrap.wrap(", ".join(names), WIDTH - 12)
    lines = [f"global {line.rstrip(',')}" for line in listed]
    return [comment("These are the module's, as in the notebook.", 4), *lines]


# ---- changes to the notebook's own text ----


def _take_ipython_out(program: Program, selection: Selection) -> None:
    """Have ``print`` for ``display``, and nothing for ``clear_output``."""
    for step in selection.kept:
        if step.brought:
            continue
        for node in ast.walk(step.statement.node):
            if not isinstance(node, ast.Call):
                continue
            if _is_of_ipython(node, "display", program.imported):
                step.statement.replace(node.func, "print")
            elif _is_of_ipython(node, "clear_output", program.imported):
                is_all = getattr(step.statement.node, "value", None) is node
                step.statement.replace(node, "" if is_all else "None")


def _mean_the_module(selection: Selection) -> None:
    """Have the module's names for what a cell calls its own: main has others of its own."""
    for step in selection.kept:
        if step.brought or step.statement.is_definition:
            continue
        for node in executed([step.statement.node]):
            name = dotted(node.func) if isinstance(node, ast.Call) else ""
            if not isinstance(node, ast.Call) or node.keywords:
                continue
            if name in ("exec", "eval") and len(node.args) == 1:
                given = step.statement.source_of(node.args[0])
                step.statement.replace(node, f"{name}({given}, globals())")
            elif name in ("locals", "vars") and not node.args:
                step.statement.replace(node, "globals()")


def _leave_annotations_out(places: Places) -> None:
    """Take the annotation from what main assigns to a ``global`` name: Python refuses it there."""
    for step in places.main:
        node = step.statement.node
        is_shared = not step.brought and bool(step.binds & places.shared)
        if isinstance(node, ast.AnnAssign) and node.value is not None and is_shared:
            value = step.statement.source_of(node.value)
            step.statement.replace(node, f"{step.statement.source_of(node.target)} = {value}")


def _is_of_ipython(call: ast.Call, name: str, imported: Imported) -> bool:
    path = imported.path(call.func)
    if path:
        return path in (f"IPython.display.{name}", f"IPython.core.display_functions.{name}")
    return isinstance(call.func, ast.Name) and call.func.id == name == "display"


def _name_pulled(selection: Selection) -> None:
    """Give what ``--pull`` brought a name of its own: the ranks' variable keeps its."""
    for step, names in selection.pulled.items():
        for node in ast.walk(step.statement.node):
            if isinstance(node, ast.Name) and node.id in names:
                step.statement.replace(node, f"{node.id}_of_ranks")


def _makes_own_group(selection: Selection) -> bool:
    return any(
        isinstance(node, ast.Call) and ast.unparse(node.func).endswith("init_process_group")
        for step in selection.kept
        for node in ast.walk(step.statement.node)
    )


def _own_names(selection: Selection) -> _Names:
    taken = {name for step in selection.kept for name in step.binds | step.reads | step.later}
    return _Names(
        main=next(n for n in ("main", "run_notebook", "run_script") if n not in taken),
        parse_arguments=next(n for n in ("parse_arguments", "read_command_line") if n not in taken),
        args=next(n for n in ("args", "arguments", "command_line") if n not in taken),
    )
