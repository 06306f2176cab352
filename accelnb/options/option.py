"""An option: how it is declared, read from text, written back, and refused.

`accelnb.options.config` declares them all.
"""

from __future__ import annotations

import dataclasses
import functools
import keyword
import math
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from accelnb.errors import AccelnbError


class ConfigError(AccelnbError):
    """An option has a value it cannot have. Nothing was started or changed.

    Attributes
    ----------
    option : str or None
        The name of the option, if it is one's value alone.
    """

    def __init__(self, text: str, option: str | None = None) -> None:
        super().__init__(text)
        self.option = option


@dataclass(frozen=True)
class Option:
    """One option as its readers see it: the magic, the help, the messages."""

    name: str
    flags: tuple[str, ...]
    help: str
    default: Any
    choices: tuple[str, ...]
    parse: Callable[[Any], Any] | None
    expects: str
    absent: Mapping[str, str]
    to_text: Callable[[Any], str]

    @property
    def is_switch(self) -> bool:
        return isinstance(self.default, bool)

    def read(self, value: Any) -> Any:
        """Return `value` checked and in its own type; raise ConfigError otherwise."""
        if value is None and self.default is None:
            return None
        if self.is_switch:
            return bool(value)
        if value in self.choices:
            return value
        if self.parse is None:
            said = f"choose one of {', '.join(self.choices)}"
            raise self.refuse(value, self.absent.get(str(value), said))
        try:
            return self.parse(value)
        except (ValueError, TypeError):
            raise self.refuse(value, f"must be {self.expects}") from None

    def write(self, value: Any) -> str:
        """Return the text that `read` makes `value` of."""
        return "default" if value is None else self.to_text(value)

    def refuse(self, value: Any, reason: str) -> ConfigError:
        """Return the error that says why this option cannot be `value`."""
        text = value if isinstance(value, str) else self.write(value)
        return ConfigError(f"{self.name}={text}: {reason}", self.name)


@functools.cache
def options(*tables: type) -> tuple[Option, ...]:
    """Return the options that the given tables declare."""
    fields = (field for table in tables for field in dataclasses.fields(table))
    return tuple(dataclasses.replace(f.metadata["option"], name=f.name) for f in fields)


def declare(
    default: Any,
    help: str,
    *,
    flags: str,
    parse: Callable[[Any], Any] | None = None,
    expects: str = "",
    choices: tuple[str, ...] = (),
    absent: Mapping[str, str] | None = None,
    write: Callable[[Any], str] = str,
) -> Any:
    """Declare an option as a field of a dataclass.

    `expects` is the text for a value that `parse` refuses; `write` makes the text that `parse`
    reads. With `choices` too, `parse` reads what is none of them. `absent` are values that people
    ask for and that there are not, with what to do.
    """
    named = tuple(flags.split())
    option = Option("", named, help, default, choices, parse, expects, absent or {}, write)
    return field(default=default, metadata={"option": option})


# ---- the values an option can take: text or a Python value in, a checked value out ----


def read_count(value: Any) -> int:
    number = int(str(value))
    if number < 1:
        raise ValueError("must be a whole number of at least 1")
    return number


def read_seconds(value: Any) -> float:
    number = float(value)
    if not (number > 0 and math.isfinite(number)):
        raise ValueError("must be a number of seconds above 0")
    return number


def read_cluster(value: Any) -> str:
    """Read ``ray://HOST:PORT`` (PORT is 10001 if left out) or ``ray://auto``, which is ``ray``."""
    url = urllib.parse.urlsplit(str(value))
    if url.scheme != "ray" or not url.hostname or url.path.strip("/") or url.query:
        raise ValueError("must be ray://HOST:PORT")
    if url.hostname == "auto":
        return "ray"
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return f"ray://{host}:{url.port or 10001}"


def read_ranks(value: Any) -> tuple[int, ...]:
    """Read ``0,2-3`` (or a sequence of numbers) as the ranks (0, 2, 3)."""
    if isinstance(value, int):
        return (value,)
    if not isinstance(value, str):
        return tuple(sorted({int(rank) for rank in value}))
    ranks: set[int] = set()
    for part in value.split(","):
        first, dash, last = part.partition("-")
        ranks.update(range(int(first), int(last if dash else first) + 1))
    if not ranks:
        raise ValueError("names no rank")
    return tuple(sorted(ranks))


def read_name(value: Any) -> str:
    if not str(value).isidentifier() or keyword.iskeyword(value):
        raise ValueError("must be a Python variable name")
    return str(value)


def read_names(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(read_name(part.strip()) for part in parts)
