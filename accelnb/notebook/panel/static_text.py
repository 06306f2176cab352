"""What stands in the notebook beside the panel, and is seen when its kernel is gone.

A front end cannot draw a widget without its kernel, and says so with an error. So the notebook
holds two outputs: the widget, and a text that says what the panel was opened with. Style rules
let only one of them be seen. GitHub and nbconvert know no widget and show the text.
"""

from __future__ import annotations

import html

from accelnb.notebook.panel.config_text import magic_line
from accelnb.options.config import LaunchConfig

_RULES = """
body:has(.{live}) .jp-OutputArea-child:has(.{saved}),
body:has(.{live}) .{saved},
.jp-OutputArea-child:not(:has(.{live})):has(+ .jp-OutputArea-child .{saved}) {{
  display: none;
}}
"""


def live_class(name: str) -> str:
    """Return the CSS class of the panel's widget, by the panel's own name."""
    return f"accelnb-live-{name}"


def as_text(config: LaunchConfig) -> str:
    """Return what is seen where only text can be shown.

    Examples
    --------
    >>> from accelnb.options.config import LaunchConfig
    >>> as_text(LaunchConfig(procs=4))
    'The panel of accelnb was opened here with %%distributed --procs 4'
    """
    return f"The panel of accelnb was opened here with {magic_line(config)}"


def as_html(config: LaunchConfig, name: str) -> str:
    """Return what is seen without the panel; it reads well without its style, too."""
    kept = f"accelnb-saved-{name}"
    rules = _RULES.format(live=live_class(name), saved=kept)
    return (
        f'<style>{rules}</style><div class="{kept}">The panel of accelnb was opened here with '
        f"<code>{html.escape(magic_line(config))}</code>. Run <code>%accelnb</code> to open it "
        "again.</div>"
    )
