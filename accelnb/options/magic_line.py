"""The line of `%distributed`: where its options, its expression and its comment begin."""

from __future__ import annotations

import re

from accelnb.options.config import CellOptions, LaunchConfig, options

_WORD = re.compile(r"\s*(?P<flag>--?[\w-]+)(?P<equals>=)?")
_VALUE = re.compile(r"\s*\S+")
# What a line says before its comment: a # within a word or within quotes is part of it.
_SAID = re.compile(r"""(?:[^\s#'"]|'[^']*'|"(?:[^"\\]|\\.)*"|(?<=\S)\#|\s)*""")
_TAKES_VALUE = {
    flag: not option.is_switch
    for option in options(LaunchConfig, CellOptions)
    for flag in option.flags
}


def split_options(line: str) -> tuple[str, str]:
    """Split the text of a `%distributed` line into its options and its expression.

    Examples
    --------
    >>> from accelnb.options.magic_line import split_options
    >>> split_options("--ranks 0,1 x - y")
    ('--ranks 0,1', 'x - y')
    """
    at = 0
    while (word := _WORD.match(line, at)) and word["flag"] in _TAKES_VALUE:
        at = word.end()
        if _TAKES_VALUE[word["flag"]]:
            value = _VALUE.match(line, at)
            at = value.end() if value else at
    return line[:at], line[at:].lstrip()


def without_comment(line: str) -> str:
    """Return the line of a magic without the comment at its end.

    Examples
    --------
    >>> from accelnb.options.magic_line import without_comment
    >>> without_comment("--procs 2   # two"), without_comment("--out a#b"), without_comment("'# 1'")
    ('--procs 2', '--out a#b', "'# 1'")
    """
    said = _SAID.match(line)
    if said is None or not line.startswith("#", said.end()):
        return line  # no comment, or a quote that is not closed
    return line[: said.end()].rstrip()
