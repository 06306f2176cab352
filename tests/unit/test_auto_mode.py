"""Which cells run on the ranks when all do that are not marked ``%%local``."""

from __future__ import annotations

import pytest
from IPython.core.interactiveshell import InteractiveShell

from accelnb.notebook.auto_mode import AutoCells, notebook_lines
from accelnb.notebook.session import Session

FOR_RANKS = [
    "x = 1",
    "# a comment\nx = 1",
    "%%time\ntrain()",
    "%%capture out\ntrain()",
    "%timeit f()",
    "!nvidia-smi",
    "import pip",
    "is_it = 'really?'",
    "'''\n%pip install tqdm\n'''",
]
FOR_NOTEBOOK = [
    "",
    "  \n\n",
    "# only a comment",
    "%%distributed --ranks 0\nx",
    "%distributed x",
    "%accelnb status",
    "%pip install tqdm",
    "pip install tqdm",
    "!pip install tqdm",
    "!uv pip install tqdm",
    "!python3 -m pip install tqdm",
    "%conda install \\\n  tqdm",
    "%load_ext autoreload\n%autoreload 2  # of the notebook\n",
    "model?",
    "?model.forward",
    "%%time?",
    "%%html\n<b>done</b>",
    "%%writefile train.py\nx = 1",
]


@pytest.fixture
def auto(tmp_path):
    shell = InteractiveShell(ipython_dir=str(tmp_path))
    auto = AutoCells(shell, Session(shell))
    auto.install()
    yield auto
    auto.remove()
    InteractiveShell.clear_instance()


def lines_of(cell: str) -> list[str]:
    return cell.splitlines(keepends=True)


@pytest.mark.parametrize("cell", FOR_RANKS)
def test_code_goes_to_the_ranks(cell: str):
    assert notebook_lines(lines_of(cell)) == 0


@pytest.mark.parametrize("cell", FOR_NOTEBOOK)
def test_what_is_the_notebooks_own_stays_there(cell: str):
    assert notebook_lines(lines_of(cell)) == len(lines_of(cell))


def test_magics_at_the_top_run_in_the_notebook_and_the_code_below_on_the_ranks(auto: AutoCells):
    cell = "%load_ext accelnb\n!pip install tqdm\n\nimport tqdm\n%time train()\n"
    assert notebook_lines(lines_of(cell)) == 2
    auto.on = True
    code = auto._shell.transform_cell(cell).splitlines()
    assert "load_ext" in code[0]
    assert "pip install" in code[1]
    assert "import tqdm" in code[2]
    assert len(code) == 3
    assert auto.code_at(cell) == cell.index("\nimport")


def test_a_local_cell_keeps_its_lines_whether_or_not_the_mode_is_on(auto: AutoCells):
    for auto.on in (False, True):
        assert auto._shell.transform_cell("%%local\nx = 1\ny = 2\n") == "\nx = 1\ny = 2\n"
        assert "run_cell_magic('time'" in auto._shell.transform_cell("%%local\n%%time\nx = 1\n")


def test_without_the_mode_no_other_cell_is_touched(auto: AutoCells):
    assert auto._shell.transform_cell("x = 1\n") == "x = 1\n"
    auto.on = True
    assert "auto_distributed" in auto._shell.transform_cell("x = 1\n")
    auto.remove()
    assert auto._shell.transform_cell("x = 1\n") == "x = 1\n"


def test_a_console_still_knows_whether_a_cell_is_complete(auto: AutoCells):
    auto.on = True
    assert auto._shell.check_complete("for x in y:")[0] == "incomplete"
    assert auto._shell.check_complete("x = 1")[0] == "complete"
