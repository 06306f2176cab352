"""Terminal colours in text, as HTML."""

from __future__ import annotations

import html
import re

_CODE = re.compile(r"\x1b\[([0-9;]*)m")
_OTHER = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-ln-z]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][A-Z0-9])")
_COLOURS = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")
# Readable on light and on dark ground; Jupyter's own where it has them.
_VALUES = ("#767676", "#d0463b", "#3f8f46", "#a37800", "#3a78d8", "#a352a8", "#218f9c", "#8a8a8a")


def to_html(text: str) -> str:
    """Return text as HTML, with its colours as spans.

    Examples
    --------
    >>> from accelnb.notebook.views.live_view.ansi import to_html
    >>> to_html("a < b, \\x1b[1mbold\\x1b[0m")
    'a &lt; b, <span style="font-weight:bold">bold</span>'
    """
    if "\x1b" not in text:
        return html.escape(text, quote=False)
    parts = _CODE.split(_OTHER.sub("", text))
    shown = [html.escape(parts[0], quote=False)]
    colour, bold = None, False
    for codes, piece in zip(parts[1::2], parts[2::2], strict=True):
        colour, bold = _after(codes, colour, bold)
        shown.append(_span(html.escape(piece, quote=False), colour, bold))
    return "".join(shown)


def _after(codes: str, colour: int | None, bold: bool) -> tuple[int | None, bool]:
    """Return colour and weight as they are after a code; other looks are left out."""
    numbers = [int(code or 0) for code in codes.split(";")]
    while numbers:
        code = numbers.pop(0)
        if code in (38, 48):  # a colour of many, which has no name here
            del numbers[: 2 if numbers[:1] == [5] else 4]
        elif code == 0:
            colour, bold = None, False
        elif code in (1, 22):
            bold = code == 1
        elif code == 39:
            colour = None
        elif 30 <= code <= 37 or 90 <= code <= 97:
            colour = code % 10
    return colour, bold


def _span(text: str, colour: int | None, bold: bool) -> str:
    looks = []
    if colour is not None:
        looks.append(f"color:var(--jp-ansi-{_COLOURS[colour]},{_VALUES[colour]})")
    if bold:
        looks.append("font-weight:bold")
    return f'<span style="{";".join(looks)}">{text}</span>' if looks and text else text
