"""What names on this rank are: the notebook asks for it at Tab and Shift-Tab.

Only rank 0 is asked. Properties are not run, for one of them may use a collective, which would
wait for ranks that were not asked. What else an object runs when it is looked at, such as
``__dir__`` or ``__repr__``, is given up after a while.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import signal
import types
import typing
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.tokenutil import token_at_cursor

_LONGEST = 0.1  # s; the notebook does not wait longer
_MOST = 1000

_SUBSCRIPT = r"""\[(?:-?\d+|'[^'\\\n]*'|"[^"\\\n]*")\]"""
_OBJECT = rf"(?<![\w.])(?P<object>[^\W\d]\w*(?:\.[^\W\d]\w*|{_SUBSCRIPT})*)"
_STEP = re.compile(rf"\.?(?P<name>[^\W\d]\w*)|{_SUBSCRIPT}")
_ATTRIBUTE = re.compile(rf"{_OBJECT}\.(?P<part>\w*)$")
_KEY = re.compile(rf"{_OBJECT}\[(?P<quote>['\"]?)(?P<part>[^'\"\[\]\n]*)$")
_NAME = re.compile(r"(?<![\w.])(?P<part>[^\W\d]\w*)$")
_STRINGS = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\"""")
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, classmethod)
_FUNCTIONS += (types.MethodDescriptorType, types.WrapperDescriptorType, staticmethod)

Answer = dict[str, Any]


class _TooLong(BaseException):
    """Looking took longer than anyone waits for it."""


class _Unknown(Exception):
    """What an expression is cannot be said without running code of the user."""


def answer(shell: InteractiveShell, query: Mapping[str, Any]) -> Answer:
    """Return what a query of the notebook asks for; nothing where this rank does not know.

    Parameters
    ----------
    query
        ``number``, which goes back with the answer; ``what``: ``complete`` or ``inspect``;
        ``code`` and ``cursor``, and what `InteractiveShell.object_inspect_mime` takes.
    """
    found: Answer = {}
    repeated = signal.signal(signal.SIGALRM, _give_up)
    timer = signal.setitimer(signal.ITIMER_REAL, _LONGEST, _LONGEST)
    try:
        found = _look(shell, query)
    except _TooLong:
        found = {}
    finally:  # no signal raises here: see _give_up
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, repeated)
    return found | {"number": query["number"]}


def _give_up(_: int, frame: types.FrameType | None) -> None:
    """End what `_look` called, and nothing else."""
    while frame is not None:
        if frame.f_code is _look.__code__:
            raise _TooLong
        frame = frame.f_back


def _look(shell: InteractiveShell, query: Mapping[str, Any]) -> Answer:
    unheard = io.StringIO()
    with (
        contextlib.redirect_stdout(unheard),
        contextlib.redirect_stderr(unheard),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            look = _complete if query["what"] == "complete" else _inspect
            return look(shell, query)
        except (Exception, SystemExit):  # of the user's objects: there is no answer from here
            return {}


def _inspect(shell: InteractiveShell, query: Mapping[str, Any]) -> Answer:
    name = token_at_cursor(query["code"], query["cursor"])
    if name.partition(".")[0] not in _names(shell):
        return {}
    data = shell.object_inspect_mime(
        name,
        detail_level=query["detail_level"],
        omit_sections=query["omit_sections"],
    )
    return {"data": data}


def _complete(shell: InteractiveShell, query: Mapping[str, Any]) -> Answer:
    """Complete a name, an attribute or a key; `length` says how much of it is there."""
    before = query["code"][: query["cursor"]]
    names = _names(shell)
    if (key := _KEY.search(before)) and _is_code(before[: key.start("quote")]):
        matches = _keys(_value(names, key["object"]), key["quote"], key["part"])
    elif not _is_code(before):
        return {}
    elif attribute := _ATTRIBUTE.search(before):
        key = attribute
        matches = _attributes(_value(names, attribute["object"]), attribute["part"])
    elif key := _NAME.search(before):
        matches = [
            (name, _kind(value)) for name, value in names.items() if _fits(name, key["part"])
        ]
    else:
        return {}
    return {"length": len(key["part"]), "matches": sorted(matches)[:_MOST]}


def _names(shell: InteractiveShell) -> dict[str, Any]:
    hidden = shell.user_ns_hidden
    return {n: v for n, v in shell.user_ns.items() if n not in hidden or hidden[n] is not v}


def _is_code(before: str) -> bool:
    """Return whether the end of `before` is neither in a string of its line nor in a comment."""
    line = _STRINGS.sub("", before[before.rfind("\n") + 1 :])
    return not any(mark in line for mark in "#'\"")


def _value(names: Mapping[str, Any], expression: str) -> Any:
    """Return what e.g. ``model.layers[0]`` is."""
    steps = list(_STEP.finditer(expression))
    if steps[0]["name"] not in names:
        raise _Unknown
    value = names[steps[0]["name"]]
    for step in steps[1:]:
        value = _attribute(value, step["name"]) if step["name"] else _item(value, step[0])
    return value


def _item(value: Any, subscript: str) -> Any:
    text = subscript[1:-1]
    return value[text[1:-1] if text[0] in "'\"" else int(text)]


def _attribute(value: Any, name: str) -> Any:
    """Return an attribute; of a property only the class that it says it returns."""
    declared = inspect.getattr_static(type(value), name, None)
    if not isinstance(declared, property):
        return getattr(value, name)
    returned = typing.get_type_hints(declared.fget).get("return")
    if not isinstance(returned, type):
        raise _Unknown
    return returned


def _attributes(value: Any, part: str) -> list[tuple[str, str]]:
    names = (name for name in dir(value) if isinstance(name, str) and _fits(name, part))
    return [(name, _kind(_static(value, name))) for name in names]


def _static(value: Any, name: str) -> Any:
    try:
        return inspect.getattr_static(value, name)
    except AttributeError:  # made by a __getattr__
        return None


def _keys(value: Any, quote: str, part: str) -> list[tuple[str, str]]:
    keys: Iterable[Any] = getattr(value, "_ipython_key_completions_", None) or value.keys
    keys = list(keys())  # type: ignore[operator]
    if not quote:
        written = [repr(key) for key in keys if isinstance(key, str | int)]
    else:
        written = [_within_quotes(key, quote) for key in keys if isinstance(key, str)]
    return [(key, "dict key") for key in written if key.startswith(part)]


def _within_quotes(key: str, quote: str) -> str:
    escaped = repr(key + '"')[1:-2].replace("\\'", "'")  # repr with a " in it takes ' around it
    return escaped.replace(quote, f"\\{quote}")


def _fits(name: str, part: str) -> bool:
    """Return whether `part` may be the start of `name`; a private one is to be asked for."""
    return name.startswith(part) and (not name.startswith("_") or part.startswith("_"))


def _kind(value: Any) -> str:
    if isinstance(value, types.ModuleType):
        return "module"
    if isinstance(value, type):
        return "class"
    if isinstance(value, property):
        return "property"
    return "function" if isinstance(value, _FUNCTIONS) else "instance"
