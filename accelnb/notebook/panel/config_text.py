"""The configuration as text: what to copy, and what is left when the panel's kernel is gone.

A front end cannot draw a widget without its kernel, and says so with an error. So the notebook
holds two outputs: the widget, and a text that says what the panel was opened with. Style rules
let only one of them be seen. GitHub and nbconvert know no widget and show the text.
"""

from __future__ import annotations

import html

from accelnb.notebook.panel.elements import box, markup
from accelnb.options.config import LaunchConfig, to_line
from accelnb.options.config_file import FILE, to_yaml

_RULES = """
body:has(.{live}) .jp-OutputArea-child:has(.{saved}),
body:has(.{live}) .{saved},
.jp-OutputArea-child:not(:has(.{live})):has(+ .jp-OutputArea-child .{saved}) {{
  display: none;
}}
"""


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


def live_class(name: str) -> str:
    """Return the CSS class of the panel's widget, by the panel's own name."""
    return f"accelnb-live-{name}"


def saved_text(config: LaunchConfig) -> str:
    """Return what is seen where only text can be shown.

    Examples
    --------
    >>> from accelnb.options.config import LaunchConfig
    >>> saved_text(LaunchConfig(procs=4))
    'The panel of accelnb was opened here with %%distributed --procs 4'
    """
    return f"The panel of accelnb was opened here with {magic_line(config)}"


def saved_html(config: LaunchConfig, name: str) -> str:
    """Return what is seen without the panel; it reads well without its style, too."""
    kept = f"accelnb-saved-{name}"
    rules = _RULES.format(live=live_class(name), saved=kept)
    return (
        f'<style>{rules}</style><div class="{kept}">The panel of accelnb was opened here with '
        f"<code>{html.escape(magic_line(config))}</code>. Run <code>%accelnb</code> to open it "
        "again.</div>"
    )


def _text(title: str, about: str, text: str) -> str:
    return (
        f'<div class="accelnb-title"><b title="{html.escape(about)}">{html.escape(title)}</b>'
        f'<button type="button" class="accelnb-copy" aria-label="Copy {html.escape(about)}">'
        f'Copy</button></div><pre tabindex="0" aria-label="{html.escape(about)}">'
        f"{html.escape(text)}</pre>"
    )
