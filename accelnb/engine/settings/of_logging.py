"""Settings of logging: levels, and what is printed."""

from __future__ import annotations

import logging
import operator
import sys
from typing import Any

from accelnb.engine.settings.setting import Setting

# What the kernel logs, and libraries that set up their loggers at import on every rank alike:
# of these only levels are held.
_OWN_SETUP = frozenset({
    "IPKernelApp", "asyncio", "comm", "ipykernel", "jedi", "parso", "tornado", "traitlets",
    "torch", "c10d-NullHandler-default", "strobelight_compile_time_profiler",
    "strobelight_function_profiler",
})  # fmt: skip
_STATE = operator.attrgetter("level", "disabled", "propagate", "handlers")
_LEVEL = operator.attrgetter("level")
_HANDLER = operator.attrgetter("level", "formatter", "filters")

_held_handlers: dict[str, list[logging.Handler]] = {}  # by logger: those from the notebook
_held_levels: set[str] = set()

_names: list[Any] = []  # what loggerDict held when these two were made of it
_with_own_setup: list[logging.Logger] = []
_others: list[logging.Logger] = []
# Root handlers that are put there for notebooks by others than their users.
_OF_HOSTS = ("absl", "colabtools", "google", "ipykernel", "_pytest")
_said: set[str] = set()  # kinds of handlers that were named
_levels: list[int] = []  # of _with_own_setup, as long as _READ is there
_READ: Any = object()  # in a cache that logging clears when a level is set anywhere


def _read_loggers(_: Any) -> Any:
    """Return the state of every logger, and of the handlers that print."""
    manager = logging.root.manager
    there = list(manager.loggerDict.values())
    if there != _names:
        _names[:] = there
        loggers = [logging.root, *(one for one in there if isinstance(one, logging.Logger))]
        _with_own_setup[:] = [one for one in loggers if _top(one.name) in _OWN_SETUP]
        _others[:] = [one for one in loggers if _top(one.name) not in _OWN_SETUP]
        logging.root._cache.pop(_READ, None)  # type: ignore[attr-defined]
    if _READ not in (cache := logging.root._cache):  # type: ignore[attr-defined]
        cache[_READ] = True
        _levels[:] = map(_LEVEL, _with_own_setup)
    states = list(map(_STATE, _others))
    printing = [(_HANDLER(one), _stream_of(one)) for state in states for one in state[3]]
    return manager.disable, _levels, states, printing


def _kept_loggers(state: Any) -> Any:
    """Copy the lists, which change in place."""
    disable, levels, states, printing = state
    copied = [(*one[:3], list(one[3])) for one in states]
    handlers = [((*handler[:2], list(handler[2])), stream) for handler, stream in printing]
    return disable, list(levels), copied, handlers


def _described_loggers(state: Any) -> Any:
    """Return what differs from a fresh process: what is disabled of all, and loggers by name."""
    disable, levels, states, _ = state
    described: dict[str, Any] = {
        logger.name: (level, False, True, [])
        for logger, level in zip(_with_own_setup, levels, strict=True)
        if level
    }
    for logger, (level, disabled, propagate, handlers) in zip(_others, states, strict=True):
        printing = [
            (stream, *_HANDLER(handler))
            for handler in handlers
            if (stream := _stream_of(handler)) is not None
        ]
        if logger is logging.root:
            _say_what_stays(handlers)
        usual = logging.WARNING if logger is logging.root else logging.NOTSET
        if printing or (level, bool(disabled), bool(propagate)) != (usual, False, True):
            described[logger.name] = (level, bool(disabled), bool(propagate), printing)
    return (disable, described) if disable or described else None


def _say_what_stays(handlers: list[logging.Handler]) -> None:
    """Name the root's handlers that ranks do without: those to files, and of other libraries."""
    for handler in handlers:
        kind = type(handler)
        if _stream_of(handler) is not None or kind is logging.NullHandler or kind.__name__ in _said:
            continue
        if not kind.__module__.startswith(_OF_HOSTS):
            _said.add(kind.__name__)
            print(
                f"accelnb: the root logger's {kind.__name__} stays in the notebook; to log by one "
                "on the ranks, call logging.basicConfig(...) in a distributed cell",
                file=sys.stderr,
            )


def hold_loggers(_: Any, value: Any, only: frozenset[str] | None = None) -> None:
    """Set levels, and have printed what the notebook prints.

    Parameters
    ----------
    only
        Libraries whose loggers are meant; by default all.
    """
    disable, described = value or (0, {})
    if only is None:
        logging.disable(disable)
        for name in (_held_levels | _held_handlers.keys()) - described.keys():
            _hold(name, (logging.WARNING if name == "root" else 0, False, True, []))
        _held_levels.clear()
        _held_levels.update(described)
    for name, state in described.items():
        if only is None or _top(name) in only:
            _hold(name, state)


def _hold(name: str, state: Any) -> None:
    level, disabled, propagate, printing = state
    logger = logging.root if name == "root" else logging.getLogger(name)
    logger.setLevel(level)
    if _top(name) in _OWN_SETUP:
        return
    logger.disabled, logger.propagate = disabled, propagate
    for old in _held_handlers.pop(name, []):
        logger.removeHandler(old)
    there = [(_stream_of(own), own.level, _format_of(own.formatter)) for own in logger.handlers]
    for stream, level_of_handler, formatter, filters in printing:
        if (stream, level_of_handler, _format_of(formatter)) in there:
            continue  # a library put it there, as it did in the notebook
        handler = logging.StreamHandler(getattr(sys, f"__{stream}__"))
        handler.setLevel(level_of_handler)
        handler.setFormatter(formatter)
        for filter in filters:
            handler.addFilter(filter)
        logger.addHandler(handler)
        _held_handlers.setdefault(name, []).append(handler)


def _stream_of(handler: logging.Handler) -> str | None:
    """Return ``stdout`` or ``stderr`` if that is all that a handler writes to."""
    if type(handler) is not logging.StreamHandler:
        return None
    if handler.stream in (sys.stdout, sys.__stdout__):
        return "stdout"
    return "stderr" if handler.stream in (sys.stderr, sys.__stderr__) else None


def _format_of(formatter: logging.Formatter | None) -> Any:
    if formatter is None:
        return None
    return type(formatter).__qualname__, formatter._fmt, formatter.datefmt


def _top(name: str) -> str:
    return name.partition(".")[0]


CAPTURE = Setting(
    "logging.captureWarnings", "logging", lambda logging: logging._warnings_showwarning is not None,
    lambda logging, captures: logging.captureWarnings(captures), False,
)  # fmt: skip
LOGGERS = Setting(
    "logging's levels and handlers", "logging", _read_loggers, hold_loggers, None, _kept_loggers,
    _described_loggers,
)  # fmt: skip
