"""Small functions that code written for Accelerate imports from its ``utils``."""

from __future__ import annotations

import functools
import os
import platform
import re
import socket
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from accelnb.errors import AccelnbError
from accelnb.options import environment

_OLDEST_GOOD_LINUX = (5, 5)  # collectives may hang with older ones


# ---- environment variables ----


def str_to_bool(value: str, to_bool: bool = False) -> int | bool:
    """Return 1 for yes and 0 for no; with `to_bool` True and False.

    Raises
    ------
    AccelnbError
        The text means neither.

    Examples
    --------
    >>> from accelnb.utils import str_to_bool
    >>> str_to_bool("yes"), str_to_bool("off", to_bool=True)
    (1, False)
    """
    text = value.lower()
    if text not in environment.YES + environment.NO:
        raise AccelnbError(f"{value!r} means neither yes nor no: write true or false")
    return text in environment.YES if to_bool else int(text in environment.YES)


def get_int_from_env(env_keys: Iterable[str], default: int) -> int:
    """Return the first of some environment variables that holds a number of at least 0."""
    return environment.number(*env_keys, default=default)


def parse_flag_from_env(key: str, default: bool = False) -> bool:
    """Return whether an environment variable says yes."""
    return environment.flag(key, default)


def parse_choice_from_env(key: str, default: str = "no") -> str:
    """Return the text of an environment variable."""
    return os.environ.get(key, str(default))


@contextmanager
def patch_environment(**kwargs: Any) -> Iterator[None]:
    """Set environment variables, in capitals, for a block.

    Examples
    --------
    >>> import os
    >>> from accelnb.utils import patch_environment
    >>> with patch_environment(a_variable=1):
    ...     print(os.environ["A_VARIABLE"])
    1
    >>> "A_VARIABLE" in os.environ
    False
    """
    values = {name.upper(): str(value) for name, value in kwargs.items()}
    with _put_back(values.__contains__):
        os.environ.update(values)
        yield


@contextmanager
def clear_environment() -> Iterator[None]:
    """Take all environment variables away for a block; what it sets is gone afterwards."""
    with _put_back(lambda name: True):
        os.environ.clear()
        yield


@contextmanager
def _put_back(is_concerned: Callable[[str], bool]) -> Iterator[None]:
    """Make some of the environment variables after a block what they were before it."""
    before = {name: value for name, value in os.environ.items() if is_concerned(name)}
    try:
        yield
    finally:
        for name in filter(is_concerned, list(os.environ)):
            del os.environ[name]
        os.environ.update(before)


def purge_accelerate_environment(func_or_cls: Any) -> Any:
    """Decorate a function so that the ``ACCELERATE_`` variables it sets do not outlive it.

    Of a class, the methods whose names start with ``test`` are decorated, in subclasses too.
    """
    if not isinstance(func_or_cls, type):
        return _purged(func_or_cls)

    def purge_tests(cls: type, **_: Any) -> None:
        for name, value in list(vars(cls).items()):
            if name.startswith("test") and callable(value):
                setattr(cls, name, _purged(value))

    purge_tests(func_or_cls)
    func_or_cls.__init_subclass__ = classmethod(purge_tests)  # pyright: ignore
    return func_or_cls


def _purged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _put_back(lambda name: name.startswith("ACCELERATE_")):
            return function(*args, **kwargs)

    return call


# ---- ports and the system ----


def is_port_in_use(port: int | None = None) -> bool:
    """Return whether something listens on a port of this machine, 29500 by default."""
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex(("localhost", 29500 if port is None else port)) == 0


def get_free_port() -> int:
    """Return a port on which nothing listens at this moment."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def check_os_kernel() -> None:
    """Warn of a Linux kernel with which collectives may hang."""
    version = re.match(r"(\d+)\.(\d+)", platform.release())
    if platform.system() != "Linux" or version is None:
        return
    if tuple(map(int, version.groups())) < _OLDEST_GOOD_LINUX:
        warnings.warn(
            f"Linux {platform.release()} is older than 5.5: collectives may hang", stacklevel=2
        )


# ---- text and dicts ----


def convert_bytes(size: float) -> str:
    """Return a number of bytes in the largest unit that fits.

    Examples
    --------
    >>> from accelnb.utils import convert_bytes
    >>> convert_bytes(1536)
    '1.5 KB'
    """
    for unit in ("bytes", "KB", "MB", "GB", "TB"):
        if size < 1024:
            return f"{round(size, 2)} {unit}"
        size /= 1024
    return f"{round(size, 2)} PB"


def get_pretty_name(obj: Any) -> str:
    """Return the name of a class or function, or that of an object's class.

    Examples
    --------
    >>> from accelnb.utils import get_pretty_name
    >>> get_pretty_name(dict), get_pretty_name({})
    ('dict', 'dict')
    """
    named = obj if hasattr(obj, "__qualname__") or hasattr(obj, "__name__") else type(obj)
    return getattr(named, "__qualname__", None) or named.__name__


def merge_dicts(source: dict[Any, Any], destination: dict[Any, Any]) -> dict[Any, Any]:
    """Put what `source` holds into `destination`, dicts within by the same rule; return it.

    Examples
    --------
    >>> from accelnb.utils import merge_dicts
    >>> merge_dicts({"a": {"b": 2}}, {"a": {"c": 3}})
    {'a': {'c': 3, 'b': 2}}
    """
    for key, value in source.items():
        if isinstance(value, dict):
            merge_dicts(value, destination.setdefault(key, {}))
        else:
            destination[key] = value
    return destination


def recursive_getattr(obj: Any, attr: str) -> Any:
    """Return an attribute of attributes, as ``recursive_getattr(model, "encoder.layer")``."""
    return functools.reduce(getattr, attr.split("."), obj)
