"""The configuration as text: the magic line and the file that say the same."""

from __future__ import annotations

import html

from accelnb.notebook.panel.elements import box, markup
from accelnb.options.config import LaunchConfig, to_line
from accelnb.options.config_file import FILE, to_yaml


def magic_line(config: LaunchConfig) -> str:
    """Return the first line of a cell that runs with `config`.

    Examples
    --------
    >>> from accelnb.options.config import LaunchConfig
    >>> magic_line(LaunchConfig(procs=4, precision="bf16"))
    '%%distributed --procs 4 --precision bf16'
    """
    return f"%%distributed {to_line(config)}".rstrip()


class Preview:
    """The two texts, each of which can be selected and copied."""

    def __init__(self) -> None:
        self._line = markup(kind="preview")
        self._file = markup(kind="preview")
        self.widget = box(self._line, self._file, kind="previews")

    def show(self, config: LaunchConfig) -> None:
        self._line.value = _text("On a cell", "the first line of a cell", magic_line(config))
        about = f"{FILE}, beside the notebook: the default of its cells"
        self._file.value = _text(FILE, about, to_yaml(config).rstrip())


def _text(title: str, about: str, text: str) -> str:
    return (
        f'<div class="accelnb-title"><b title="{html.escape(about)}">{html.escape(title)}</b>'
        f'<button type="button" class="accelnb-copy" aria-label="Copy {html.escape(about)}">'
        f'Copy</button></div><pre tabindex="0" aria-label="{html.escape(about)}">'
        f"{html.escape(text)}</pre>"
    )
