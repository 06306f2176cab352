"""Exported scripts do what their notebooks did: the same losses, to the last bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness import Notebook, without_colours

from accelnb.export import export_notebook
from accelnb.export.cells.notebook_file import read_notebook

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
NAMES = ("classes", "functions", "launch", "launcher", "loops", "patches", "reruns", "settings")
NAMES += ("tutorial", "two_cells", "two_groups")
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of all notebooks, in one folder."""
    folder = tmp_path_factory.mktemp("scripts")
    for name in NAMES:
        export_notebook(NOTEBOOKS / f"{name}.ipynb", folder / f"{name}.py")
    return folder


@pytest.fixture(scope="module")
def printed_by(shared_notebook: Notebook) -> dict[str, list[list[str]]]:
    """What each notebook printed, by rank; they ran one after the other in one kernel."""
    return {name: _run_notebook(shared_notebook, name) for name in NAMES}


def _run_notebook(notebook: Notebook, name: str) -> list[list[str]]:
    lines: list[str] = []
    for cell in read_notebook(NOTEBOOKS / f"{name}.ipynb").as_it_ran():
        if "pip install" not in cell.source:  # nothing is to be installed here
            lines += notebook.run(cell.source).lines
    notebook.run("%accelnb shutdown\nget_ipython().reset(new_session=False)")
    return [_of_rank(rank, lines) for rank in (0, 1)]


def _of_rank(rank: int, lines: list[str]) -> list[str]:
    return [line.partition("] ")[2] for line in lines if line.startswith((f"[{rank}] ", "[0-1] "))]


def losses(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("loss ")]


def run(*command: str | Path, folder: Path) -> str:
    """Run a command as a user does; return what it printed."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, without_colours(done.stdout + done.stderr)
    return done.stdout


def test_the_scripts_of_notebooks_have_their_losses_on_every_rank(folder, printed_by):
    scripts = [folder / f"{name}.py" for name in NAMES]
    driver = Path(__file__).with_name("export_driver.py")
    run("torchrun", "--nproc-per-node", "2", driver, folder, *scripts, folder=folder)
    for name in NAMES:
        for rank in (0, 1):
            printed = (folder / f"{name}.{rank}").read_text().splitlines()
            expected = losses(printed_by[name][rank])
            assert expected, f"{name}: the notebook printed no losses"
            assert losses(printed) == expected, name


def test_accelerate_launches_a_script_with_the_configuration_that_comes_with_it(
    folder, printed_by, tmp_path
):
    script = tmp_path / "train.py"
    export_notebook(NOTEBOOKS / "launcher.ipynb", script, launchers=["accelerate", "config"])
    printed = run(
        "accelerate", "launch", "--config_file", "accelerate.yaml", script, folder=tmp_path
    )
    both = losses(printed_by["launcher"][0]) + losses(printed_by["launcher"][1])
    for loss in both:
        assert loss.split()[1] in printed  # words of two processes can mix in a line
    assert "precision: bf16" in (tmp_path / "accelnb.yaml").read_text()


def test_a_kernel_without_a_file_exports_what_it_ran(shared_notebook):
    shared_notebook.run("get_ipython().reset()")  # nothing was run so far
    shared_notebook.run("x = 3")
    shared_notebook.run("%%distributed\nprint('x is', x)")
    shared_notebook.run(
        "from accelnb.export import live\n_ = live(get_ipython(), 'train.py', force=True)"
    )
    folder = Path(shared_notebook.run("import os; os.getcwd()").value.strip("'"))
    script = folder / "train.py"
    assert "x = 3\n" in script.read_text()
    assert "live(" not in script.read_text()
    assert run(sys.executable, script, folder=folder) == "x is 3\n"
