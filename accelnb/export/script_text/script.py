"""The text of a script, put together of the notebook's parts."""

from __future__ import annotations

import textwrap

from accelnb.export.cells.headings import headings_of
from accelnb.export.cells.hyper_parameters import parser_text
from accelnb.export.cells.notebook_file import ExportError, Notebook
from accelnb.export.cells.syntax import calls_in, last_part
from accelnb.export.processes import processes_on_each_node
from accelnb.export.script_text.import_block import import_block
from accelnb.export.script_text.main_function import ENDS_GROUP, MainBody
from accelnb.export.script_text.placement import place
from accelnb.export.script_text.runtime_functions import (
    GATHER,
    WORK_AS,
    WORK_AS_WITH_RANDOM_NUMBERS,
    join_text,
    mesh_text,
    settings,
)
from accelnb.export.script_text.source_text import WIDTH, indented, tidy
from accelnb.export.script_text.statement_edits import adapt, leave_annotations_out
from accelnb.export.steps.selection import Selection


def write_script(notebook: Notebook, selection: Selection, file_name: str) -> str:
    """Write the script of what was selected of a notebook.

    Raises
    ------
    ExportError
        Something of it has no script form.
    """
    adapt(selection)
    text = _Script(notebook, selection).text(file_name)
    _check(text, file_name)
    return tidy(text)


class _Script:
    """The parts of a script, as texts."""

    def __init__(self, notebook: Notebook, selection: Selection) -> None:
        self._notebook = notebook
        self._selection = selection
        self._program = selection.program
        self._config = selection.program.phases[0].config
        self._headings = headings_of(notebook)
        self._places = place(selection)
        leave_annotations_out(self._places)
        self._main = self._own_name("main", "run_notebook", "run_script")
        self._parse_arguments = self._own_name("parse_arguments", "read_command_line")
        self._args = self._own_name("args", "arguments", "command_line")
        self._body = MainBody(selection, self._places, self._headings, self._args)

    def text(self, file_name: str) -> str:
        constants, definitions, main = self._constants(), self._definitions(), self._main_text()
        helpers = self._helpers()
        written = "\n".join([constants, definitions, *helpers, main])
        return _joined(
            [
                self._document(file_name),
                import_block(self._selection, self._places, written),
                constants,
                definitions,
                *helpers,
                main,
                self._guard_text(f"{definitions}\n{main}"),
            ]
        )

    def _own_name(self, *choices: str) -> str:
        """Return a name of the script's own that the notebook does not use."""
        kept = self._selection.kept
        taken = {name for step in kept for name in step.binds | step.reads | step.later}
        return next(name for name in choices if name not in taken)

    def _document(self, file_name: str) -> str:
        title = self._headings.title or f"Training of {self._notebook.name}"
        title = title.rstrip(".").replace("\\", "/").replace('"""', "'''")
        phases = self._program.phases
        procs = max((processes_on_each_node(phase.config) for phase in phases), default=2)
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
        document = (
            f'"""{first}\n\nExported from {self._notebook.name}. '
            f'Start it with one of\n\n{shown}\n"""'
        )
        if not self._program.requirements:
            return document
        listed = "".join(f"\n#     {requirement}" for requirement in self._program.requirements)
        return f"{document}\n\n# Requirements, as the notebook installs them with pip:{listed}"

    def _constants(self) -> str:
        lines = [
            f"{constant} = {value}  # {what}" for constant, value, what, _ in settings(self._config)
        ]
        return "\n".join([*lines, *(s.statement.commented() for s in self._places.constants)])

    def _definitions(self) -> str:
        written, section = [], self._headings.title
        for step in self._places.definitions:
            if (own := self._headings.of(step.statement.cell)) and own != section:
                written.append(f"# --- {own} ---")
                section = own
            written.append(step.statement.commented())
        return "\n\n\n".join(written)

    def _helpers(self) -> list[str]:
        found, body = [], self._body
        if parameters := list(self._places.parameters.values()):
            found.append(parser_text(parameters, self._parse_arguments))
        found.append(
            join_text(
                self._config,
                makes_group=not self._makes_own_group(),
                shares_cores=not body.takes_turns,
                several=body.joins_again,
            )
        )
        if body.takes_turns:
            found.append(WORK_AS_WITH_RANDOM_NUMBERS if body.takes_turns_twice else WORK_AS)
        if body.gathers:
            found.append(GATHER)
        return found

    def _makes_own_group(self) -> bool:
        calls = (call for step in self._selection.kept for call in calls_in(step.statement.node))
        return any(last_part(call).endswith("init_process_group") for call in calls)

    def _main_text(self) -> str:
        of_rank = self._selection.of_rank | self._body.of_rank
        lines = [f"def {self._main}() -> None:"]
        read_at_top = {name for step in self._places.definitions for name in step.later}
        shared = sorted(self._places.shared | (read_at_top & of_rank))
        lines += [f"    {line}" for line in _global_lines(shared)]
        if self._places.parameters:
            lines.append(f"    {self._args} = {self._parse_arguments}()")
        meshes = {phase.config.mesh for phase in self._program.phases if phase.config.mesh}
        if len(meshes) > 1:
            raise ExportError("the cells use several meshes: a script has one; make them equal")
        needs_device = "device" in of_rank or "mesh" in of_rank
        lines.append(f"    {'device = ' if needs_device else ''}join_process_group()")
        lines += [
            f'    {name} = int(os.environ["{name.upper()}"])'
            for name in ("rank", "local_rank", "world_size")
            if name in of_rank
        ]
        if "mesh" in of_rank:
            lines.append(indented(mesh_text(meshes.pop())))
        return "\n".join([*lines, "", indented("\n".join(self._body.lines))])

    def _guard_text(self, code: str) -> str:
        """Return what starts the script.

        The group ends when the models of the main function are gone: torch can wait forever for
        its own thread where the last reference to a group is a model's.
        """
        start = f'if __name__ == "__main__":\n    {self._main}()\n'
        if any(word in code for word in (*ENDS_GROUP, "init_process_group(")):
            return f"{start}    if dist.is_initialized():\n        dist.destroy_process_group()"
        return (
            f"{start}    dist.destroy_process_group()  # when the models of {self._main}() are gone"
        )


def _global_lines(names: list[str]) -> list[str]:
    if not names:
        return []
    listed = textwrap.wrap(", ".join(names), WIDTH - 12)
    lines = [f"global {line.rstrip(',')}" for line in listed]
    return ["# These are the module's, as in the notebook.", *lines]


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
