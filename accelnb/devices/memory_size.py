"""Sizes of memory as people say them."""

from __future__ import annotations

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def in_words(size: int | None) -> str:
    """Return a size with three figures or more, for what is compared.

    Examples
    --------
    >>> from accelnb.devices.memory_size import in_words
    >>> in_words(7_500_000_000), in_words(12), in_words(None)
    ('6.98 GiB', '12 B', '?')
    """
    if size is None:
        return "?"
    number, at = float(size), 0
    while number >= 1024 and at < len(_UNITS) - 1:
        number, at = number / 1024, at + 1
    return f"{number:.2f} {_UNITS[at]}" if at else f"{size} B"


def rounded_size(size: int | None) -> str:
    """Return the size of a machine's memory, for which some MiB do not matter.

    Examples
    --------
    >>> from accelnb.devices.memory_size import rounded_size
    >>> rounded_size(23 << 30), rounded_size(64 << 20), rounded_size(None)
    ('23.0 GiB', '64 MiB', 'unknown')
    """
    if size is None:
        return "unknown"
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
