"""Sizes of memory as people say them."""

from __future__ import annotations


def in_words(size: int | None) -> str:
    """Return a size as people say it.

    Examples
    --------
    >>> from accelnb.devices.memory_size import in_words
    >>> in_words(7_500_000_000), in_words(12), in_words(None)
    ('6.98 GiB', '12 B', '?')
    """
    if size is None:
        return "?"
    number, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB"]
    while number >= 1024 and len(units) > 1:
        number /= 1024
        units.pop(0)
    return f"{number:.0f} B" if units[0] == "B" else f"{number:.2f} {units[0]}"
