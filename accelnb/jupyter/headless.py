"""A notebook executed without a browser: parameters in, an executed copy out."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from accelnb.engine.wire.socket_folder import new_socket_folder
from accelnb.errors import AccelnbError
from accelnb.jupyter.cell_names import analyse

_PARAMETERS, _INJECTED = "parameters", "injected-parameters"  # papermill's tags
_KINDS = {
    bool: "True or False",
    int: "a number",
    float: "a number",
    str: "a text, in quotes of its own where it looks like a number: NAME=\"'5'\"",
}
_MAGIC_LINE = re.compile(r"(?m)^[ \t]*[%!].*$")
# The body is no Python, or what it binds does not stay in the notebook.
_OTHER_CELL = re.compile(r"\s*%%(?!(?:distributed|time|capture)\b)")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class CellFailed(AccelnbError):
    """A cell of an executed notebook failed.

    Attributes
    ----------
    traceback : str
        As the notebook shows it, with colours.
    """

    def __init__(self, text: str, traceback: str = "") -> None:
        super().__init__(text)
        self.traceback = traceback


class WrongParameter(AccelnbError):
    """A parameter is none of the notebook's, or of another kind. Nothing was executed."""


class Watcher:
    """What is told of an execution while it goes on; it does nothing by itself."""

    def on_cell(self, number: int, total: int, source: str) -> None:
        """A code cell begins, the `number`th of `total`."""

    def on_text(self, text: str) -> None:
        """A cell printed something, or shows a value."""

    def on_written(self, output: str | os.PathLike[str]) -> None:
        """The executed copy has been written."""


def read_parameters(pairs: list[str] | tuple[str, ...]) -> dict[str, Any]:
    """Read ``name=value`` texts; a value is Python where it reads as such, else a text.

    Raises
    ------
    WrongParameter
        One of them is no such pair.

    Examples
    --------
    >>> from accelnb.jupyter.headless import read_parameters
    >>> read_parameters(["lr=1e-3", "name=first run", "debug=True"])
    {'lr': 0.001, 'name': 'first run', 'debug': True}
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.strip().isidentifier():
            raise WrongParameter(f"-p {pair}: give NAME=VALUE, such as lr=1e-3")
        try:
            found[name.strip()] = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError):
            found[name.strip()] = text
    return found


def run_notebook(
    notebook: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    parameters: Mapping[str, Any] | None = None,
    *,
    timeout: float | None = None,
    watcher: Watcher | None = None,
) -> Any:
    """Execute a notebook from its own folder and return it with its outputs.

    Parameters
    ----------
    output
        Where the executed copy is written, also if a cell fails. By default it is not written.
    parameters
        They are set after the cell tagged ``parameters``, as papermill does.
    timeout
        Seconds for each cell; by default there is no limit.
    watcher
        Is told of each cell and of its output.

    Raises
    ------
    CellFailed
        A cell raised an error, took too long, or ended the kernel.
    AccelnbError
        The notebook cannot be read, or the copy cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from accelnb.jupyter.headless import run_notebook
    >>> path = Path(tempfile.mkdtemp(), "empty.ipynb")
    >>> _ = path.write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    >>> run_notebook(path).cells
    []
    """
    path = Path(notebook)
    document = _read(path)
    _inject(document, parameters or {}, path.name)
    if output is not None and not Path(output).resolve().parent.is_dir():
        raise AccelnbError(f"{output} cannot be written: there is no such folder")
    watcher = watcher or Watcher()
    try:
        if any(cell.cell_type == "code" for cell in document.cells):
            with _private_channels() as channels:
                _execute(document, path, timeout, watcher, channels)
    finally:
        if output is not None:
            _write(document, output)
            watcher.on_written(output)
    return document


def _read(path: Path) -> Any:
    try:
        import nbclient  # noqa: F401
        import nbformat
    except ImportError as error:
        raise AccelnbError(
            f"executing notebooks needs {error.name}: pip install nbclient nbformat"
        ) from None
    try:
        return nbformat.read(path, as_version=4)
    except OSError as error:
        raise AccelnbError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except Exception as error:  # nbformat raises whatever it trips over
        said = str(error).strip().partition("\n")[0]
        raise AccelnbError(f"{path} is not a notebook: {said}") from None


# ---- parameters ----


def _inject(document: Any, parameters: Mapping[str, Any], name: str) -> None:
    if not parameters:
        return
    import nbformat

    tagged = [cell for cell in document.cells if _PARAMETERS in _tags(cell)]
    known = {bound for cell in tagged for bound in _assigned(cell.source)}
    defaults = {n: value for cell in tagged for n, value in _defaults(cell.source)}
    for parameter, value in parameters.items():
        if tagged and parameter not in known:
            raise WrongParameter(
                f"-p {parameter}: {name} has no such parameter; its cell tagged parameters sets "
                f"{', '.join(sorted(known)) or 'none'}"
            )
        if not tagged and (setting := _sets(document, parameter)):
            raise WrongParameter(
                f"-p {parameter}: no cell of {name} is tagged parameters, and its cell {setting} "
                f"would set {parameter} again: give that cell the tag parameters"
            )
        if not _fits(value, defaults.get(parameter)):
            raise WrongParameter(
                f"-p {parameter}={value}: {name} has {parameter} = {defaults[parameter]!r}; give "
                f"{_KINDS[type(defaults[parameter])]}"
            )
    lines = [f"{parameter} = {value!r}" for parameter, value in parameters.items()]
    cell = nbformat.v4.new_code_cell("\n".join(["# Parameters", *lines]))
    cell.metadata["tags"] = [_INJECTED]
    if document.nbformat_minor < 5:  # before ids were
        cell.pop("id", None)
    cells = [cell for cell in document.cells if _INJECTED not in _tags(cell)]
    at = cells.index(tagged[-1]) + 1 if tagged else 0
    document.cells = [*cells[:at], cell, *cells[at:]]


def _tags(cell: Any) -> list[str]:
    return cell.metadata.get("tags", [])


def _statements(source: str) -> list[ast.stmt]:
    if _OTHER_CELL.match(source):
        return []
    with contextlib.suppress(SyntaxError):
        return ast.parse(_MAGIC_LINE.sub("", source)).body
    return []


def _assigned(source: str) -> Iterator[str]:
    for statement in _statements(source):
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id


def _sets(document: Any, parameter: str) -> int | None:
    """Return the number of the first code cell that gives a name a value of its own."""
    code = [cell.source for cell in document.cells if cell.cell_type == "code"]
    for number, source in enumerate(code, 1):
        if any(_gives_value(statement, parameter) for statement in _statements(source)):
            return number
    return None


def _gives_value(statement: ast.stmt, name: str) -> bool:
    """Return whether a name is assigned at the top level, whatever it was before."""
    if not isinstance(statement, ast.Assign | ast.AnnAssign):
        return False
    with contextlib.suppress(SyntaxError):  # the cell fails by itself
        names = analyse(ast.unparse(statement))
        return name in names.surely - names.needed
    return False


def _defaults(source: str) -> Iterator[tuple[str, Any]]:
    for node in _statements(source):
        match node:
            case ast.Assign([ast.Name(name), *_], value) | ast.AnnAssign(
                ast.Name(name), _, ast.expr() as value
            ):
                with contextlib.suppress(ValueError, TypeError):
                    yield name, ast.literal_eval(value)


def _fits(value: Any, default: Any) -> bool:
    """Return whether a value is of the kind of the notebook's own, where that says anything."""
    if value is None:
        return True
    if isinstance(default, bool):
        return isinstance(value, bool | int)
    if isinstance(default, int | float):
        return isinstance(value, int | float)
    return not isinstance(default, str) or isinstance(value, str)


# ---- execution ----


def _execute(
    document: Any, path: Path, timeout: float | None, watcher: Watcher, channels: Any
) -> None:
    from nbclient.client import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    ending: list[Any] = []  # an interrupt under way
    numbers: dict[int, int] = {}  # a cell's index in the file -> its number among the code cells
    for index, cell in enumerate(document.cells):
        if cell.cell_type == "code":
            numbers[index] = len(numbers) + 1
    last, interrupts = 0, 0

    def interrupt() -> None:
        nonlocal interrupts
        interrupts += 1  # the second time the kernel is ended, whatever its cell does
        manager: Any = client.km
        end = client._async_cleanup_kernel if interrupts > 1 else manager.interrupt_kernel
        ending.append(asyncio.ensure_future(end()))

    def on_start(cell: Any, cell_index: int) -> None:
        nonlocal last
        if threading.current_thread() is threading.main_thread() and sys.platform != "win32":
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupt)
        if cell_index in numbers:
            last = numbers[cell_index]
            watcher.on_cell(last, len(numbers), cell.source)

    class Client(NotebookClient):
        def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
            if text := _text_of(msg):
                watcher.on_text(text)
            return super().process_message(msg, cell, cell_index)

    client = Client(
        document,
        timeout=timeout,
        kernel_name=_kernel_of(document),
        resources={"metadata": {"path": str(path.resolve().parent)}},
        on_cell_start=on_start,
        config=channels,
    )
    try:
        client.execute()
    except (CellExecutionError, DeadKernelError) as error:
        if interrupts:
            raise KeyboardInterrupt from None
        if isinstance(error, DeadKernelError):
            said = "the kernel died; perhaps the system ran out of memory"
            raise CellFailed(f"cell {last} of {path.name}: {said}") from None
        said = _COLOURS.sub("", f"{error.ename}: {error.evalue}".rstrip(": "))
        raise CellFailed(f"cell {last} of {path.name}: {said}", _traceback(document)) from None
    except CellTimeoutError:
        said = f"took longer than {timeout:g} s and was stopped"
        raise CellFailed(f"cell {last} of {path.name}: {said}") from None
    except RuntimeError as error:
        if last:
            raise
        raise AccelnbError(f"{path.name}: its kernel did not start: {error}") from None


def _kernel_of(document: Any) -> str:
    """Return the kernel that the notebook names if it is installed here, else Python's own."""
    from jupyter_client.kernelspec import KernelSpecManager

    named = document.metadata.get("kernelspec", {}).get("name", "")
    return named if named in KernelSpecManager().find_kernel_specs() else "python3"


@contextlib.contextmanager
def _private_channels() -> Iterator[Any]:
    """Yield the settings by which the kernel is reached by sockets that only its user can open.

    They have a full path: the kernel works in another folder than this process.
    """
    from traitlets.config import Config

    if not sys.platform.startswith("linux"):
        yield Config()
        return
    folder = new_socket_folder()
    try:
        yield Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _text_of(message: Mapping[str, Any]) -> str:
    kind, content = message["msg_type"], message["content"]
    if kind == "stream":
        return content["text"]
    if kind in ("display_data", "execute_result", "update_display_data"):
        text = content["data"].get("text/plain", "")
        return f"{text}\n" if text else ""
    return ""


def _traceback(document: Any) -> str:
    for cell in document.cells:
        for shown in cell.get("outputs", ()):
            if shown.output_type == "error":
                return "\n".join(shown.traceback)
    return ""


def _write(document: Any, output: str | os.PathLike[str]) -> None:
    import nbformat

    path = Path(output).resolve()
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(nbformat.writes(document) + "\n", encoding="utf-8")
        os.replace(unfinished, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise AccelnbError(f"{output} cannot be written: {error.strerror}") from None
