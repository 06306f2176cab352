"""How kinds of objects travel that pickle and cloudpickle refuse, or do not bring back whole.

`TABLE` gives a pickler the reducer of a type. Types are named, not imported: their libraries may
not be there. A reducer returns what `__reduce__` may return.
"""

from __future__ import annotations

import contextvars
import copyreg
import functools
import pickle
import queue
import re
import struct
import threading
import types
import typing
import weakref
from collections.abc import Callable
from typing import Any

from cloudpickle import cloudpickle

from accelnb.engine.serialization import process_objects as own
from accelnb.engine.serialization import torch_objects as of_torch

Reducer = Callable[[Any], Any]
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement
_BUILT_OF = (object, dict, list, tuple, str, bytes, int, float, complex)  # all state is known


class _Table:
    """The reducer of a type, as a pickler asks for it: by `table[type]`."""

    def __init__(self) -> None:
        self._found: weakref.WeakKeyDictionary[type, Reducer | None] = weakref.WeakKeyDictionary()

    def __getitem__(self, kind: type) -> Reducer:
        try:
            reducer = self._found[kind]
        except KeyError:
            reducer = self._found[kind] = _find(kind)
        return reducer or copyreg.dispatch_table[kind]


def _find(kind: type) -> Reducer | None:
    if (exact := EXACT.get(_name(kind))) is not None:
        return exact
    if (known := cloudpickle.Pickler._dispatch_table.get(kind)) is not None:
        return known
    for base in kind.__mro__:
        if (inherited := WITH_SUBCLASSES.get(_name(base))) is not None:
            return inherited
    if issubclass(kind, type):
        return None
    has_own_way = _has(kind, "__reduce__") or _has(kind, "__reduce_ex__")
    if not has_own_way and (_is_proxy(kind) or issubclass(kind, dict)):
        return _plain
    return None


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _has(kind: type, method: str) -> bool:
    """Tell whether a class statement, or C code, gave a type a method that `object` has too."""
    definer = next(base for base in kind.__mro__ if method in base.__dict__)
    return definer is not object


def _is_proxy(kind: type) -> bool:
    """Tell whether pickle would ask an instance's `__getattr__` before it has any attribute."""
    names = {name for base in kind.__mro__ for name in base.__dict__}
    return "__getattr__" in names and "__setstate__" not in names


# ---- objects with attributes ----


def _plain(obj: Any) -> Any:
    """Do what `object.__reduce_ex__` does, but ask the type alone, also when it is rebuilt."""
    kind = type(obj)
    needs_it = _is_proxy(kind) or getattr(obj, "__dict__", None) is obj
    if not needs_it or _builtin_base(kind) not in _BUILT_OF:
        return obj.__reduce_ex__(5)
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if (new_args := _method(kind, "__getnewargs_ex__")) is not None:
        args, kwargs = new_args(obj)
    elif (new_args := _method(kind, "__getnewargs__")) is not None:
        args = new_args(obj)
    items = list.__iter__(obj) if isinstance(obj, list) else None
    pairs = iter(list(dict.items(obj))) if isinstance(obj, dict) else None
    state = kind.__getstate__(obj)  # type: ignore[attr-defined]
    return _new, (kind, args, kwargs), state, items, pairs, _set_state


def _new(kind: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return kind.__new__(kind, *args, **kwargs)


def _builtin_base(kind: type) -> type:
    return next(base for base in kind.__mro__ if not base.__flags__ & _HEAP_TYPE)


def _method(kind: type, name: str) -> Any:
    return next((base.__dict__[name] for base in kind.__mro__ if name in base.__dict__), None)


def _set_state(obj: Any, state: Any) -> None:
    if state is None:
        return
    if state is obj:  # class Config(dict), with `self.__dict__ = self`
        object.__setattr__(obj, "__dict__", obj)
        return
    attributes, slots = state if isinstance(state, tuple) else (state, None)
    if attributes:
        object.__getattribute__(obj, "__dict__").update(attributes)
    for name, value in (slots or {}).items():
        object.__setattr__(obj, name, value)


# ---- errors ----


def _error(error: BaseException) -> Any:
    kind = type(error)
    if isinstance(_method(kind, "__reduce__"), types.FunctionType) or _has(kind, "__reduce_ex__"):
        return error.__reduce_ex__(5)
    _, args, *rest = error.__reduce_ex__(5)
    links = (error.__cause__, error.__context__, error.__suppress_context__)
    state = (rest[0] if rest else None, links)
    return _rebuild_error, (kind, args), state, None, None, _set_error_state


def _rebuild_error(kind: Any, args: tuple[Any, ...]) -> BaseException:
    """Make an error without its own `__init__`, which may take other arguments than `args`."""
    builtin: Any = _builtin_base(kind)
    error = builtin.__new__(kind, *args)
    builtin.__init__(error, *args)
    return error


def _set_error_state(error: BaseException, state: Any) -> None:
    own_state, (cause, context, suppress) = state
    if own_state:
        error.__setstate__(own_state)
    error.__cause__, error.__context__ = cause, context
    error.__suppress_context__ = suppress


# ---- functions ----


def reduce_function(function: Any, reduced: Any) -> Any:
    """Return how to send a function, of which `reduced` is what cloudpickle would do."""
    if not isinstance(reduced, tuple):
        return reduced  # importable by name
    if function.__globals__ is functools.__dict__ and "dispatch" in function.__dict__:
        return _dispatching(function)
    if "_torchdynamo_orig_callable" in function.__dict__:
        return of_torch.compiled_function(function, reduced)
    make, (code, variables, *names, _), (state, slots), *rest = reduced
    # Its own cells, so that functions which share a variable share it there too.
    args = (code, variables, *names, function.__closure__)
    return (make, args, (state, slots | {"__closure__": None}), *rest)


def _cached(function: Any) -> Any:
    """Send a function with `functools.cache` as it was made; what it has cached stays here."""
    if function.__module__ != "__main__":
        return function.__reduce__()
    made_here = ("__wrapped__", "cache_parameters")
    attributes = {n: v for n, v in function.__dict__.items() if n not in made_here}
    return _rebuild_cached, (function.__wrapped__, function.cache_parameters()), attributes


def _rebuild_cached(function: Any, parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _cell(cell: types.CellType) -> Any:
    try:
        contents = cell.cell_contents
    except ValueError:
        return types.CellType, ()
    return types.CellType, (), (contents,), None, None, _set_cell


def _set_cell(cell: types.CellType, contents: tuple[Any]) -> None:
    (cell.cell_contents,) = contents


def _dispatching(function: Any) -> Any:
    made_here = ("registry", "dispatch", "register", "_clear_cache")
    attributes = {n: v for n, v in function.__dict__.items() if n not in made_here}
    args = (function.__wrapped__,)
    state = (dict(function.registry), attributes)
    return functools.singledispatch, args, state, None, None, _set_dispatching


def _set_dispatching(function: Any, state: Any) -> None:
    registry, attributes = state
    for kind, implementation in registry.items():
        function.register(kind, implementation)
    function.__dict__.update(attributes)


# ---- threads ----


def _fresh(make: Callable[[], Any]) -> Reducer:
    return lambda _: (make, ())


def _condition(condition: Any) -> Any:
    return threading.Condition, (condition._lock,)


def _barrier(barrier: Any) -> Any:
    return threading.Barrier, (barrier._parties, barrier._action, barrier._timeout)


def _thread_local(local: Any) -> Any:
    """Send what the thread that packs it has."""
    return type(local).__new__, (type(local),), local.__dict__.copy()


def _simple_queue(waiting: Any) -> Any:
    if not waiting.empty():
        raise pickle.PicklingError(
            "a SimpleQueue with items cannot be copied without taking them out; use queue.Queue"
        )
    return queue.SimpleQueue, ()


def _context_variable(variable: contextvars.ContextVar[Any]) -> Any:
    try:
        default = contextvars.Context().run(variable.get)
    except LookupError:
        default = _UNSET
    current = variable.get(_UNSET)
    return _rebuild_context_variable, (variable.name, default, current)


class _Unset:
    def __reduce__(self) -> str:
        return "_UNSET"


_UNSET = _Unset()


def _rebuild_context_variable(name: str, default: Any, current: Any) -> Any:
    defaults = {} if default is _UNSET else {"default": default}
    variable: Any = contextvars.ContextVar(name, **defaults)
    if current is not _UNSET and current is not default:
        variable.set(current)
    return variable


def _refused(what: str) -> Reducer:
    def refuse(obj: Any) -> Any:
        raise pickle.PicklingError(f"{what} belongs to the process that made it")

    return refuse


# ---- references, matches ----


def _weak(reference: Any) -> Any:
    return _rebuild_weak, (type(reference), reference())


class _Gone:
    def method(self) -> None: ...


def _rebuild_weak(kind: Any, target: Any) -> Any:
    if target is None:
        target = _Gone().method if kind is weakref.WeakMethod else _Gone()
    return kind(target)


def _weak_proxy(proxy: Any) -> Any:
    return weakref.proxy, (proxy.__repr__.__self__,)


def _weak_mapping(mapping: Any) -> Any:
    return type(mapping), (), None, None, iter(list(mapping.items()))


def _match(match: re.Match[Any]) -> Any:
    args = (match.re, match.string, match.pos, match.endpos, match.regs)
    return _rebuild_match, args


def _rebuild_match(pattern: Any, string: Any, start: int, end: int, regs: Any) -> Any:
    ways = (pattern.search, pattern.match, pattern.fullmatch)
    for at in (start, regs[0][0]):
        for way in ways:
            if (found := way(string, at, end)) is not None and found.regs == regs:
                return found
    raise pickle.UnpicklingError(f"the match of {pattern.pattern!r} cannot be found again")


# ---- typing ----


def _named_type(obj: Any) -> Any:
    """Send a NewType, ParamSpec …: by name if a module has it, else as what it was made of."""
    if cloudpickle._lookup_module_and_qualname(obj, name=obj.__name__) is not None:
        return obj.__reduce__()
    tracker = cloudpickle._get_or_create_tracker_id(obj)
    if isinstance(obj, typing.NewType):
        args: tuple[Any, ...] = (obj.__name__, obj.__supertype__)
        qualname = obj.__qualname__  # type: ignore[attr-defined]
    else:
        args, qualname = (obj.__name__,), None
    return _rebuild_named_type, (type(obj), args, obj.__module__, qualname, tracker)


def _rebuild_named_type(kind: Any, args: Any, module: str, qualname: Any, tracker: str) -> Any:
    made = kind(*args)
    made.__module__ = module
    if qualname is not None:
        made.__qualname__ = qualname
    return cloudpickle._lookup_class_or_track(tracker, made)


# ---- a parser's marks ----


def _parser_part(part: Any) -> Any:
    make, args, state, *_ = part.__reduce_ex__(5)
    return (make, args, {n: own.marked(v) for n, v in state.items()}, None, None, own.set_marked)


EXACT: dict[str, Reducer] = {
    "builtins.cell": _cell,
    "functools._lru_cache_wrapper": _cached,
    "_thread.lock": _fresh(threading.Lock),
    "_thread.RLock": _fresh(threading.RLock),
    "threading.Condition": _condition,
    "threading.Barrier": _barrier,
    "_queue.SimpleQueue": _simple_queue,
    "_contextvars.ContextVar": _context_variable,
    "weakref.ReferenceType": _weak,
    "weakref.WeakMethod": _weak,
    "weakref.ProxyType": _weak_proxy,
    "weakref.CallableProxyType": _weak_proxy,
    "weakref.WeakValueDictionary": _weak_mapping,
    "weakref.WeakKeyDictionary": _weak_mapping,
    "re.Match": _match,
    "_struct.Struct": lambda layout: (struct.Struct, (layout.format,)),
    "typing.NewType": _named_type,
    "typing.ParamSpec": _named_type,
    "typing.TypeVarTuple": _named_type,
    "_io.TextIOWrapper": own.text_file,
    "os._Environ": own.environment,
    "random.Random": own.random_numbers,
    "numpy.random.mtrand.RandomState": own.random_numbers,
    "torch._C.Generator": of_torch.generator,
    "torch._ops.OpOverloadPacket": of_torch.operator,
    "torch._ops.OpOverload": of_torch.operator,
    "torch.finfo": of_torch.number_info,
    "torch.iinfo": of_torch.number_info,
    "torch.jit.torch.jit.ScriptFunction": of_torch.script,
}

WITH_SUBCLASSES: dict[str, Reducer] = {
    "builtins.BaseException": _error,
    "_thread._local": _thread_local,
    "threading.Thread": _refused("a thread"),
    "concurrent.futures._base.Executor": _refused("a pool of workers"),
    "concurrent.futures._base.Future": _refused("a future"),
    "subprocess.Popen": _refused("a child process"),
    "_io._IOBase": own.stream,
    "IPython.core.interactiveshell.InteractiveShell": own.shell,
    "rich.console.Console": own.console,
    "argparse.ArgumentParser": _parser_part,
    "argparse.Action": _parser_part,
    "torch.jit._script.ScriptModule": of_torch.script,
}

TABLE: Any = _Table()
