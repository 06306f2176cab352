"""What the pages for developers say of the rooms is so, and what two rooms share is one."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import accelnb
from accelnb.options.config import LaunchConfig, options
from accelnb.training.parallel.parallelize import STRATEGIES

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
    assert len(there) <= 15


def test_what_is_behind_each_command_is_where_the_page_says():
    page = (_LAYOUT.parent / "docs" / "command-line.md").read_text()
    paths = re.findall(r"^\| `accelnb .*\| `(accelnb\.[\w.]+)` \|$", page, re.MULTILINE)
    assert len(paths) >= 10
    for path in paths:
        assert pkgutil.resolve_name(path) is not None


def test_a_strategy_that_can_be_chosen_is_one_that_there_is():
    (option,) = (option for option in options(LaunchConfig) if option.name == "strategy")
    assert list(STRATEGIES) == list(option.choices or ())
