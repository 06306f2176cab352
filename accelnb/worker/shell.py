"""The IPython shell that runs cells on a rank."""

from __future__ import annotations

import contextlib
import getpass
import io
import linecache
import re
import sys
import tokenize
import traceback
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from IPython.core.compilerop import CachingCompiler
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.error import StdinNotImplementedError, UsageError
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

Send = Callable[[str, dict[str, Any]], None]

_MOST_FRAMES = 100
_SILENT = (tokenize.ENDMARKER, tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT)
_FRAMES_KEPT = 10  # of a traceback with more, at either end

# IPython's methods that show an error, and those in which one ends the cell.
_SHOWING = frozenset({
    "_show", "_showtraceback", "showtraceback", "show_usage_error", "showsyntaxerror",
    "showindentationerror",
})  # fmt: skip
_RUNNING = frozenset({"run_code", "run_ast_nodes", "run_cell_async", "_run_cell", "run_cell"})

_WIDGET = "application/vnd.jupyter.widget-view+json"
_FILE = re.compile(r'File "([^"]+)"')
_REFUSED = "this code already runs on a rank; start %{name} from an ordinary notebook cell"


@dataclass(frozen=True)
class Cell:
    """A cell of the notebook: `code` is `source` with IPython's syntax transformed."""

    code: str
    source: str
    name: str  # the file name that the notebook compiled it under
    number: int
    future: int = 0  # compiler flags that the notebook's cells have turned on


class _Compiler(CachingCompiler):
    """Compiles a cell under the name it has in the notebook, so that tracebacks name its lines."""

    cell = Cell("", "", "<cell>", 0)

    def __init__(self) -> None:
        super().__init__()
        if not hasattr(self, "_filename_map"):  # IPython before 8, as on Colab and Kaggle
            self._filename_map: dict[str, int] = {}

    def cache(self, transformed_code: str, number: int = 0, raw_code: str | None = None) -> str:
        if transformed_code is not self.cell.code:
            return super().cache(transformed_code, number, raw_code)
        self.know(self.cell.name, self.cell.number, self.cell.source)
        return self.cell.name

    def label(self, file: str) -> str | None:
        """Return e.g. ``Cell In[5]`` for the file name of a cell, None for any other file."""
        number = self._filename_map.get(file)
        return None if number is None else f"Cell In[{number}]"

    def code(self, file: str) -> str:
        """Return the code of a cell, as far as it is known here."""
        return self.cell.code if file == self.cell.name else "".join(linecache.getlines(file))

    def know(self, name: str, number: int, source: str) -> None:
        """Let tracebacks show a cell of the notebook that defined a function sent here."""
        self._filename_map[name] = number
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)


def _ends_with_semicolon(code: str) -> bool:
    """Tell whether a cell asks for its value not to be shown."""
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    said = [token.string for token in tokens if token.type not in _SILENT]
    return bool(said) and said[-1] == ";"


class _DisplayHook(DisplayHook):
    """Sends a cell's last value instead of printing it."""

    def __call__(self, result: Any = None) -> None:
        if result is None:
            return
        self.fill_exec_result(result)
        shell: RankShell = self.shell  # type: ignore[assignment]
        if not shell.shows_value:
            return
        data, metadata = self.compute_format_data(result)
        if data := _without_widgets(data):
            shell.send("execute_result", {"data": data, "metadata": metadata})


class _DisplayPublisher(DisplayPublisher):
    """Sends what ``display`` is given."""

    def publish(  # type: ignore[override]
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        *,
        transient: dict[str, Any] | None = None,
        update: bool = False,
        **_: Any,
    ) -> None:
        __tracebackhide__ = True
        shell: RankShell = self.shell  # type: ignore[assignment]
        shell.send(
            "update_display_data" if update else "display_data",
            {
                "data": _without_widgets(data),
                "metadata": metadata or {},
                "transient": transient or {},
            },
        )

    def clear_output(self, wait: bool = False) -> None:
        shell: RankShell = self.shell  # type: ignore[assignment]
        shell.send("clear_output", {"wait": wait})


def _without_widgets(data: dict[str, Any]) -> dict[str, Any]:
    """Leave out what a notebook could show only if it had a connection to the widget's process."""
    return {kind: value for kind, value in data.items() if kind != _WIDGET}


class CellError(Exception):
    """A cell ended with an exception; it was rendered while its frames were there."""

    def __init__(self, error: BaseException, traceback: list[str], where: str | None) -> None:
        self.ename = type(error).__name__
        self.evalue = _text_of(error)
        self.traceback = traceback
        self.where = where
        self.is_runtime_error = isinstance(error, RuntimeError)


class RankShell(InteractiveShell):
    """Runs cells and calls; made once in the fork server and inherited by every rank."""

    send: Send
    compile: _Compiler
    shows_value = True

    def __init__(self, **kwargs: Any) -> None:
        self._rendered: list[str] = []
        self._left_out = 0
        self._depth = 0  # of cells that run: a magic may run one inside another
        super().__init__(**kwargs)

    def know_sources(self, sources: dict[str, tuple[int, str]]) -> None:
        for name, (number, source) in sources.items():
            self.compile.know(name, number, source)

    def run_code_of_cell(self, cell: Cell, show_value: bool) -> Any:
        """Run a cell and return its last value.

        Raises
        ------
        CellError
            The cell raised.
        """
        self._rendered = []
        self.compile.cell = cell
        self.compile.flags |= cell.future
        self.execution_count = cell.number
        self.shows_value = show_value and not _ends_with_semicolon(cell.code)
        self._depth = 0
        result = self.run_cell(cell.code)
        error = result.error_before_exec or result.error_in_exec
        if error is not None:
            raise self._cell_error(error)
        return result.result

    def run_cell(self, *args: Any, **kwargs: Any) -> Any:
        self._depth += 1
        try:
            return super().run_cell(*args, **kwargs)
        finally:
            self._depth -= 1

    def run_call(self, call: Callable[[], Any]) -> Any:
        """Return what `call` returns; raise CellError if it raises."""
        __tracebackhide__ = "__ipython_bottom__"  # IPython hides this frame and those above it
        self._rendered = []
        with self.builtin_trap, self.display_trap:
            self.events.trigger("pre_execute")
            try:
                return call()
            except BaseException as error:
                self.showtraceback()
                raise self._cell_error(error) from None
            finally:
                self.events.trigger("post_execute")

    def _cell_error(self, error: BaseException) -> CellError:
        return CellError(error, self._rendered, self.cell_line(error.__traceback__))

    def cell_line(self, traceback: types.TracebackType | None) -> str | None:
        """Return e.g. ``Cell In[5], line 7``: the innermost line of the notebook in it."""
        where = None
        while traceback is not None:
            if label := self.compile.label(traceback.tb_frame.f_code.co_filename):
                where = f"{label}, line {traceback.tb_lineno}"
            traceback = traceback.tb_next
        return where

    # ---- what the base class would do for a terminal ----

    def transform_cell(self, raw_cell: str) -> str:
        # The notebook has transformed the cell itself; %timeit and others bring code of theirs.
        is_cell = raw_cell is self.compile.cell.code
        return raw_cell if is_cell else super().transform_cell(raw_cell)

    def showtraceback(self, exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        _, error, _ = exc_tuple or sys.exc_info()
        self._left_out = _shorten(error.__traceback__) if error is not None else 0
        if isinstance(error, BaseExceptionGroup):  # IPython would print it, with its own frames
            self._showtraceback(type(error), error, [self._text_of_group(error)])
            return
        super().showtraceback(exc_tuple, *args, **kwargs)

    def _text_of_group(self, error: BaseException) -> str:
        """Return a traceback in Python's own form, from the first frame of the notebook on."""
        first = error.__traceback__
        while first is not None and not self.compile.label(first.tb_frame.f_code.co_filename):
            first = first.tb_next
        text = "".join(traceback.format_exception(type(error), error, first))
        return _FILE.sub(lambda file: self.compile.label(file[1]) or file[0], text.rstrip())

    def _showtraceback(self, etype: type, evalue: BaseException, stb: list[str]) -> None:
        lines = "\n".join(stb).split("\n")
        if self._left_out:
            lines.insert(-1, f"[{self._left_out:,} frames in the middle are left out]")
            self._left_out = 0
        self._show(lines)

    def show_usage_error(self, exc: BaseException) -> None:
        self._show([f"UsageError: {exc}"])

    def _show(self, lines: list[str]) -> None:
        """Keep the lines of the error that ends the cell; print those of any other.

        A magic such as %run shows an error and goes on, a display formatter too.
        """
        if self._ends_cell():
            self._rendered = lines
        else:  # as in the notebook, also where the cell's own output is captured
            print("\n".join(lines), file=sys.__stderr__)

    def _ends_cell(self) -> bool:
        frame: Any = sys._getframe(1)
        while frame.f_code.co_name in _SHOWING:
            frame = frame.f_back
        name, shell = frame.f_code.co_name, frame.f_locals.get("self")
        return shell is self and (name == "run_call" or (name in _RUNNING and self._depth <= 1))

    def enable_gui(self, gui: str | None = None) -> None:
        pass

    def ask_exit(self) -> None:
        raise SystemExit(0)

    system = InteractiveShell.system_raw  # its output goes through our descriptors

    @contextlib.contextmanager
    def _tee(self, channel: str) -> Iterator[None]:
        yield  # the base class would keep all output in memory, for the history


def make_shell(ipython_dir: str) -> RankShell:
    """Return a new shell; its files, if any, go to `ipython_dir`."""
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.cache_size = 0
    config.InteractiveShell.ast_node_interactivity = "last_expr"
    shell = RankShell(
        config=config,
        ipython_dir=ipython_dir,
        user_module=types.ModuleType("__main__", "The notebook, as this rank has it."),
        display_pub_class=_DisplayPublisher,
        displayhook_class=_DisplayHook,
        compiler_class=_Compiler,
    )
    for singleton in (InteractiveShell, RankShell):  # what get_ipython() returns
        singleton._instance = shell  # type: ignore[assignment]
    for name in ("distributed", "accelnb"):
        shell.register_magic_function(_refusal(name), "line_cell", name)  # type: ignore[arg-type]
    shell.builtin_trap.auto_builtins["input"] = getpass.getpass = _no_input
    # Libraries take a process with prompts for one that cannot be a rank (Lightning Fabric).
    for prompt in ("ps1", "ps2", "ps3"):
        sys.__dict__.pop(prompt, None)
    try:  # what renders a traceback is slow to import: before a fork, not at the first error
        raise AssertionError
    except AssertionError as error:
        shell.InteractiveTB.structured_traceback(AssertionError, error, error.__traceback__)
    return shell


def _shorten(traceback: types.TracebackType | None) -> int:
    """Leave out the middle of a deep traceback, which would take seconds to render.

    Frames of ours that it ends in go too: IPython hides them everywhere but there.
    """
    chain = []
    while traceback is not None:
        chain.append(traceback)
        traceback = traceback.tb_next
    while len(chain) > 1 and "__tracebackhide__" in chain[-1].tb_frame.f_locals:
        chain.pop()
        chain[-1].tb_next = None
    if len(chain) <= _MOST_FRAMES:
        return 0
    chain[_FRAMES_KEPT].tb_next = chain[-_FRAMES_KEPT]
    return len(chain) - 2 * _FRAMES_KEPT - 1


def _refusal(name: str) -> Callable[..., None]:
    def refuse(line: str, cell: str | None = None) -> None:
        raise UsageError(_REFUSED.format(name=name))

    return refuse


def _no_input(prompt: str = "", stream: Any = None) -> str:
    __tracebackhide__ = True
    raise StdinNotImplementedError(
        "a rank has no keyboard: ask with input() in an ordinary cell and use the variable here"
    )


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:
        return f"<its text cannot be made: {type(broken).__name__}>"
