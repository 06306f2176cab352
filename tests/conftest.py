"""Notebooks and scripts for tests, with a check that they leave no process behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Notebook, assert_ended, children


@pytest.fixture(autouse=True)
def _environment_as_before() -> Iterator[None]:
    """Put back the variables that a test has set: what later tests start takes them over."""
    before = dict(os.environ)
    yield
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Notebook]:
    """A fresh kernel with the extension loaded; nothing of it may be left afterwards."""
    notebook = Notebook(tmp_path)
    try:
        notebook.load()
        below = {process.pid for process in notebook.processes()}
        yield notebook
        below |= {process.pid for process in children(notebook)}
    finally:
        notebook.close()
    assert_ended(below)


@pytest.fixture(scope="module")
def shared_notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """A kernel with warm ranks for tests that leave it as they found it."""
    notebook = Notebook(tmp_path_factory.mktemp("notebook"))
    try:
        notebook.load()
        notebook.run("%distributed --procs 2 rank")
        yield notebook
        below = {process.pid for process in children(notebook)}
    finally:
        notebook.close()
    assert_ended(below)


@pytest.fixture
def run_script(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python text as a script, as a user starts it; return the completed process."""

    def run(text: str, *, timeout: float = 90.0, **env: str) -> subprocess.CompletedProcess[str]:
        script = tmp_path / "script.py"
        script.write_text(text)
        return subprocess.run(
            [sys.executable, str(script)],
            cwd=tmp_path,
            env=os.environ | env,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run
