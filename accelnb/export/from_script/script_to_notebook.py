"""The other way: a notebook of a script, whose main part runs on ranks."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from accelnb.export.cells.notebook_file import Cell, Draft, ExportError, document_of
from accelnb.export.cells.percent_format import cells_of_marks, has_marks
from accelnb.export.cells.statements import Statement, cut
from accelnb.export.cells.syntax import dotted
from accelnb.export.from_script.argparse_options import declares_options, options_of, reads_options
from accelnb.export.from_script.script_job import (
    calls,
    defining,
    job_of,
    read_notebook_options,
    statements_of,
    target_of,
)
from accelnb.export.output_files import write_files
from accelnb.options.config import ConfigError, LaunchConfig, options
from accelnb.options.environment import BY_OPTION
from accelnb.options.option import Option

_BANNER = re.compile(r"#+[\s#=*~_-]*(?P<title>[^\s#=*~_-].*?)[\s#=*~_-]*")
_RULE = re.compile(r"#?\s*[#=*~_-]{3,}")
# Scripts that say themselves where cells begin: what tells one, and what reads it.
_DIALECTS = ((has_marks, cells_of_marks),)
# What accelnb's own scripts do and a distributed cell need not.
_OWN_FUNCTIONS = ("join_process_group", "work_as")
_SETTINGS = {o.name.upper(): o for o in options(LaunchConfig) if o.name in BY_OPTION}
_PROCS = re.compile(r"--nproc-per-node (\d+)")
_FOR_THE_SYSTEM = re.compile(r"#!|#.*coding[:=]")  # comments of a file that a cell has no use for
_ENVIRONMENT = re.compile(r"(rank|local_rank|world_size) = int\(os\.environ\[\W\w+\W\]\)")


def import_script(
    script: str | os.PathLike[str], notebook: str | os.PathLike[str], *, force: bool = False
) -> None:
    """Write a notebook of a script.

    Imports, functions and classes become ordinary cells, command-line options a cell tagged
    `parameters`, and what the script does, a ``%%distributed`` cell. Marks of cells
    (``# %%``) are honoured.

    Parameters
    ----------
    script, notebook
        The file that is read, and the one that is written.
    force
        Replace the notebook if it is there.

    Raises
    ------
    ExportError
        The script is not Python, or the notebook is there. Nothing was written.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from accelnb.export import import_script
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "train.py").write_text("import os\\nprint(os.getpid())")
    >>> import_script(folder / "train.py", folder / "train.ipynb")
    >>> "%%distributed" in (folder / "train.ipynb").read_text()
    True
    """
    script, notebook = Path(script), Path(notebook)
    try:
        source = script.read_text(encoding="utf-8")
    except OSError as error:
        raise ExportError(f"{script} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ExportError(f"{script} is not text in UTF-8") from None
    read = next((read for is_in, read in _DIALECTS if is_in(source)), None)
    drafts = read(source) if read else _drafts(source, script)
    write_files({notebook: document_of(drafts)}, force=force)


def _drafts(source: str, script: Path) -> Iterator[Draft]:
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise ExportError(f"{script.name}, line {error.lineno}: {error.msg}") from None
    document = ast.get_docstring(tree) or ""
    exported = any(_is_own(node) for node in tree.body)
    line = _magic_line(tree, document) if exported else "%%distributed"
    if document:
        title = document.partition("\n")[0] if exported else document
        yield Draft("markdown", _as_markdown(title))
        tree.body = tree.body[1:]
    yield Draft("code", "%load_ext accelnb")
    statements = [s for s in cut(Cell(1, True, source), source, tree) if not _is_own(s.node)]
    readers = {
        s.node.name
        for s in statements
        if isinstance(s.node, ast.FunctionDef) and declares_options(s.node)
    }
    ordinary = defining(statements)
    main, job = job_of(statements, ordinary, source, readers)
    options = options_of([s.node for s in statements], source)
    given = f"Namespace({', '.join(f'{o.name}={o.name}' for o in options)})"
    kept = [s for s in ordinary if s.node is not main and not declares_options(s.node)]
    for statement in kept:
        read_notebook_options(statement, readers, given)
    yield from _cells(kept, _kind)
    inner = statements_of(main, source) if main is not None else []
    work = [*(s for s in job if not calls(s.node, main)), *inner]
    arguments = _arguments_name(work, main, job, readers)
    if options:
        yield Draft("code", "\n".join(o.line() for o in options), ["parameters"])
        yield Draft("code", f"from argparse import Namespace\n\n{arguments} = {given}")
    names = {option.name for option in options}
    needed = [s for s in work if not _is_idle(s, readers, arguments, names)]
    for statement in needed:
        read_notebook_options(statement, readers, arguments)
    for draft in _cells(needed, lambda _: "job"):
        is_code = draft.kind == "code"
        yield draft._replace(text=f"{line}\n{draft.text}") if is_code else draft


def _as_markdown(document: str) -> str:
    title, _, rest = document.partition("\n")
    return f"# {title.rstrip('.')}\n{rest}".rstrip()


def _magic_line(tree: ast.Module, document: str) -> str:
    """Return the line of the cells that an exported script was made of, and forget its settings."""
    line = "%%distributed"
    if procs := _PROCS.search(document):
        line += f" --procs {procs[1]}"
    for node in list(tree.body):
        if isinstance(node, ast.Assign) and (option := _setting(node)):
            line += f" {option.flags[-1]} {ast.literal_eval(node.value)}"
            tree.body.remove(node)
    return line


def _setting(node: ast.Assign) -> Option | None:
    """Return the option that an exported script's constant stands for, None for other constants."""
    option = _SETTINGS.get(dotted(node.targets[0]))
    try:
        if option is not None:
            option.read(ast.literal_eval(node.value))
        return option
    except (ConfigError, ValueError):  # a script's own constant of that name
        return None


# ---- cells ----


def _cells(statements: Iterable[Statement], kind_of: Callable[[Statement], str]) -> Iterator[Draft]:
    """Put statements into cells: a new one at a heading, a definition, and another kind."""
    cell: list[str] = []
    kind = ""
    for statement in statements:
        title, comments = _heading(statement.comments)
        own = kind_of(statement)
        if cell and (title or own != kind or own == "definition"):
            yield Draft("code", "\n".join(cell))
            cell = []
        if title:
            yield Draft("markdown", f"## {title}")
        gap = [""] if cell and statement.blank_before else []
        cell += [*gap, *comments, statement.text()]
        kind = own
    if cell:
        yield Draft("code", "\n".join(cell))


def _kind(statement: Statement) -> str:
    if statement.is_definition:
        return "definition"
    return "imports" if statement.is_import else "values"


def _is_idle(statement: Statement, readers: set[str], arguments: str, options: set[str]) -> bool:
    """Return whether a cell on ranks has no use for a statement of the script."""
    node = statement.node
    if _is_own(node) or _ENVIRONMENT.match(statement.text()) or declares_options(node):
        return True
    if isinstance(node, ast.Assign):
        target = target_of(node)
        is_option = target in options and dotted(node.value) == f"{arguments}.{target}"
        return is_option or reads_options(node.value, readers)
    source = ast.unparse(node)
    return source == "dist.destroy_process_group()" or source.endswith(
        "distributed.destroy_process_group()"
    )


def _is_own(node: ast.stmt) -> bool:
    if isinstance(node, ast.FunctionDef):
        return node.name in _OWN_FUNCTIONS
    value = getattr(node, "value", None)
    return isinstance(value, ast.Call) and dotted(value.func) in _OWN_FUNCTIONS


def _arguments_name(
    work: Sequence[Statement],
    main: ast.FunctionDef | None,
    job: Sequence[Statement],
    readers: set[str],
) -> str:
    """Return the name under which the script's code has its options."""
    if main is not None and main.args.args:
        return main.args.args[0].arg
    for statement in (*work, *job):
        node = statement.node
        if isinstance(node, ast.Assign) and reads_options(node.value, readers):
            return target_of(node)
    return "args"


def _heading(comments: Sequence[str]) -> tuple[str, list[str]]:
    """Split comments into the heading among them, if there is one, and the rest."""
    comments = [text for text in comments if not _FOR_THE_SYSTEM.match(text)]
    for number, text in enumerate(comments):
        banner = _BANNER.fullmatch(text)
        below = comments[number + 1 : number + 2]
        is_ruled = bool(below) and bool(_RULE.fullmatch(below[0])) and banner is not None
        has_signs = banner is not None and bool(re.match(r"#\s*[-=*~#]{2,}", text))
        if banner and (is_ruled or has_signs):
            rest = [c for c in comments if c is not text and not _RULE.fullmatch(c)]
            return banner["title"].strip(), [c for c in rest if c]
    return "", [c for c in comments if c]
