"""Two ranks on CUDA behind a real kernel; without a GPU each test is skipped, or fails if asked."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from harness import Notebook, Output, assert_ended, children

PROCS = 2


def why_not(gpus: int) -> str | None:
    """Return why there are not so many GPUs for torch here, None if there are."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA: see make test-cuda"
    if (count := torch.cuda.device_count()) < gpus:
        return f"{gpus} CUDA GPU{'s' * (gpus > 1)} needed, {count} here"
    return None


@pytest.fixture(scope="session", autouse=True)
def a_gpu() -> None:
    if (why := why_not(1)) is None:
        return
    if os.environ.get("ACCELNB_REQUIRE_SYSTEM_TESTS") == "1":
        pytest.fail(why)
    pytest.skip(why)


@pytest.fixture(scope="session")
def two_gpus(a_gpu: None) -> None:
    if why := why_not(2):
        pytest.skip(why)


@dataclass
class Ranks:
    """Two ranks on CUDA, which share a GPU where there is but one."""

    notebook: Notebook

    def __call__(self, cell: str, *, fails: bool = False, **options: Any) -> Output:
        """Run a cell on the ranks."""
        line = f"%%distributed --procs {PROCS} --device cuda"
        return self.notebook.run(f"{line}\n{cell}", fails=fails, timeout=100, **options)

    def values(self, cell: str) -> list[Any]:
        """Run a cell on the ranks and return each rank's last value, a Python literal."""
        line = f"%%distributed --procs {PROCS} --device cuda --out brought_back"
        self.notebook.run(f"{line}\n{cell}", timeout=100)
        return ast.literal_eval(self.notebook.run("list(brought_back)").value)


@pytest.fixture(scope="module")
def ranks(a_gpu: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    notebook = Notebook(tmp_path_factory.mktemp("notebook"))
    below: set[int] = set()
    try:
        notebook.load()
        ranks = Ranks(notebook)
        ranks("import os, torch, torch.distributed as dist")
        yield ranks
        below = {process.pid for process in children(notebook)}
    finally:
        notebook.close()
    assert_ended(below)
