"""What the documentation shows is so."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import accelnb
from accelnb import AccelnbError
from accelnb.options.config import CellOptions, LaunchConfig, options
from accelnb.training.not_here import is_here

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_examples_of_docstrings_run():
    code = "from test_docs import run_doctests; run_doctests()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[-1]) > 10


def run_doctests() -> None:
    """Run every example of the package in this process, which the fork server ends with."""
    tried = 0
    for module in pkgutil.walk_packages(accelnb.__path__, "accelnb."):
        result = doctest.testmod(importlib.import_module(module.name), optionflags=doctest.ELLIPSIS)
        assert not result.failed, module.name
        tried += result.attempted
    print("examples:", tried)


def test_the_readme_names_every_option_and_no_other():
    table = README[README.index("## Options of") : README.index("## Without the magic")]
    named = set(re.findall(r"`(--[a-z]+)", table))
    assert named == {flag for o in options(LaunchConfig, CellOptions) for flag in o.flags[-1:]}


@pytest.mark.parametrize("name", accelnb.__all__)
def test_every_public_name_is_documented_with_an_example(name):
    value = getattr(accelnb, name)
    assert value.__doc__
    if is_here(value) and not (isinstance(value, type) and issubclass(value, AccelnbError)):
        assert "Examples\n" in value.__doc__


def test_importing_accelnb_is_light():
    code = (
        "import accelnb, sys; print([m for m in ('torch', 'IPython', 'zmq') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]"
