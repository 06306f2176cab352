"""docs/parity.md says what is so: each of its names is looked up here and in Accelerate."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import accelnb
import accelnb.utils
from accelnb.training.not_here import is_here

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "parity.md").read_text()
ROW = re.compile(r"^\| (`.*`) \| (works|differs|later|not planned) \| ?(.*?) ?\|$", re.MULTILINE)
ROWS = [
    (name, status, note)
    for names, status, note in ROW.findall(PAGE)
    for name in re.findall(r"`([^`]+)`", names)
]
NAMES = {name for name, _, _ in ROWS}


def exists(name: str) -> bool:
    """Return whether accelnb has what the page calls `name`."""
    if re.fullmatch(r"[A-Z0-9_]+", name):  # an environment variable
        return any(f'"{name}"' in path.read_text() for path in (ROOT / "accelnb").rglob("*.py"))
    if argument := re.fullmatch(r"(\w+)\((\w+)\)", name):
        return argument[2] in inspect.signature(getattr(accelnb, argument[1])).parameters
    head, *rest = name.split(".")
    try:
        found: Any = accelnb.utils if head == "utils" else getattr(accelnb, head, None)
        if found is None:  # a module of training/
            *module, last = name.split(".")
            return hasattr(importlib.import_module("accelnb.training." + ".".join(module)), last)
        if rest and found in (accelnb.Accelerator, accelnb.PartialState):
            found = found()
        for part in rest:
            found = getattr(found, part)
    except (AttributeError, ImportError):
        return False
    return is_here(found)


@pytest.mark.parametrize(("name", "status", "note"), ROWS, ids=[row[0] for row in ROWS])
def test_each_row_is_so(name, status, note):
    assert exists(name) == (status in ("works", "differs"))
    assert note or status in ("works", "later"), "say how it differs, or why it is not planned"


def test_the_page_forgets_nothing_that_accelerate_has():
    accelerate = pytest.importorskip("accelerate")
    arguments = list(inspect.signature(accelerate.Accelerator.__init__).parameters)[1:]
    missing = {f"Accelerator({name})" for name in arguments} - NAMES
    members = (name for name in vars(accelerate.Accelerator) if not name.startswith("_"))
    missing |= {f"Accelerator.{name}" for name in members} - NAMES
    assert not missing


def test_every_public_utility_of_accelerate_is_here_or_named():
    utils = pytest.importorskip("accelerate.utils")
    public = {
        name
        for name, value in vars(utils).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    said = set(re.findall(r"`(?:utils\.)?(\w+)`", PAGE))
    assert public - set(dir(accelnb.utils)) - said == set()


def test_names_are_listed_by_what_they_can():
    _, _, tail = PAGE.partition("## Names that only say what there is instead")
    refusing, _, absent = tail.partition("## Names that are not there")
    listed = {
        name
        for line in refusing.splitlines()
        if line[:2] in ("- ", "  ")
        for name in re.findall(r"`(\w+)`", line)
    }
    there = {name: getattr(accelnb.utils, name) for name in accelnb.utils.__all__}
    assert listed == {name for name, value in there.items() if not is_here(value)}
    assert set(re.findall(r"`(\w+)`", absent)).isdisjoint({*there, *accelnb.__all__})
