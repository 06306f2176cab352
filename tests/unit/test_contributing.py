"""What CONTRIBUTING says of the package's rooms is so."""

from __future__ import annotations

import re
from pathlib import Path

import accelnb

_LAYOUT = Path(__file__).parents[2] / "CONTRIBUTING.md"
_PACKAGE = Path(accelnb.__file__).parent


def test_the_layout_has_a_line_for_each_room_and_they_fit_on_one_screen():
    text = _LAYOUT.read_text()
    table = text[text.index("| where | what |") : text.index("A room imports only")]
    first_cells = " ".join(line.split("|")[1] for line in table.splitlines() if "|" in line)
    named = {
        name.removeprefix("accelnb/").rstrip("/")
        for name in re.findall(r"`([^`]+)`", first_cells)
        if (_PACKAGE / name.removeprefix("accelnb/")).exists()
    }
    there = {
        path.name for path in _PACKAGE.iterdir() if path.name not in ("__pycache__", "_assets")
    }
    assert named == there
    assert len(there) <= 14
