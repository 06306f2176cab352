"""tqdm in a rank: bars tell their state instead of drawing it."""

from __future__ import annotations

import functools
import sys
import threading
from types import ModuleType
from typing import Any

from accelnb.engine.wire.reports import Bar
from accelnb.worker.output import PipeWriter
from accelnb.worker.progress.bars import ToldBar, current_bars, state

_FILE = 4  # the place of `file` among the arguments of tqdm()
_OF_WIDGETS = (
    "status_printer", "display", "colour", "__iter__", "update", "close", "clear", "reset"
)  # fmt: skip


class _Nowhere:
    """Where a bar draws that is shown by the notebook."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True  # Hugging Face's libraries show their bars on a terminal only


_NOWHERE = _Nowhere()


def hook(module: ModuleType) -> None:
    """Have the bars of ``tqdm.std``, and so of its subclasses, tell their state."""
    cls = module.tqdm
    init, display, delete = cls.__init__, cls.display, cls.__del__

    @functools.wraps(init)
    def told_init(self: Any, *args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        if current_bars() is not None and _is_for_rank(args, kwargs):
            self._accelnb_bar = ToldBar()
            if len(args) > _FILE:
                args = (*args[:_FILE], _NOWHERE, *args[_FILE + 1 :])
            else:
                kwargs["file"] = _NOWHERE
        init(self, *args, **kwargs)

    @functools.wraps(display)
    def told_display(self: Any, msg: str | None = None, pos: int | None = None) -> Any:
        __tracebackhide__ = True
        bars, bar = current_bars(), self.__dict__.get("_accelnb_bar")
        if bars is None or bar is None:
            return display(self, msg, pos)
        bars.tell(bar, _state(self, msg))
        return True

    @functools.wraps(delete)
    def told_delete(self: Any) -> None:
        bars, bar = current_bars(), self.__dict__.get("_accelnb_bar")
        if bars is None or bar is None or threading.current_thread() is not bars.carrier:
            delete(self)
            return
        # Garbage found by the link thread. It cannot wait for tqdm's lock: who holds that may
        # print, and wait for the link thread to read it.
        self.disable = True
        if bar.is_open:
            text = bar.state.text if self.leave is not False else ""
            bars.tell(bar, bar.state._replace(closed=True, text=text))

    cls.__init__, cls.display, cls.__del__ = told_init, told_display, told_delete


def hook_notebook(module: ModuleType) -> None:
    """Make the bars of ``tqdm.notebook`` ordinary ones: a rank has no widgets."""
    cls = module.tqdm_notebook
    for name in _OF_WIDGETS:
        if name in vars(cls):
            delattr(cls, name)

    def told_init(self: Any, *args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        kwargs.pop("display", None)
        kwargs["disable"] = bool(kwargs.get("disable"))
        if not isinstance(kwargs.get("ncols"), int):
            kwargs.pop("ncols", None)  # a width as in CSS
        super(cls, self).__init__(*args, **kwargs)

    cls.__init__ = told_init


def _is_for_rank(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether a bar with these arguments would draw to the rank's stdout or stderr."""
    file = args[_FILE] if len(args) > _FILE else kwargs.get("file")
    return isinstance(sys.stderr if file is None else file, PipeWriter)


def _state(bar: Any, message: str | None) -> Bar:
    __tracebackhide__ = True
    shown = bar.format_dict
    done, total, rate, elapsed = bar.n, bar.total, shown["rate"], shown["elapsed"]
    if rate is None and elapsed:
        rate = (done - (shown["initial"] or 0)) / elapsed
    if (scale := bar.unit_scale) and scale not in (True, 1):
        done, total, rate = (v if v is None else v * scale for v in (done, total, rate))
    label = bar.desc.removesuffix(": ")
    text = str(bar) if message is None else message
    return state(label, done, total, bar.unit, rate, text, closed=bar.disable)
