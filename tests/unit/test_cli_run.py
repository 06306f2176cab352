"""`accelnb run`: a notebook executed from the terminal, with a real kernel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner

from accelnb.cli.run import command

new = nbformat.v4


def notebook(path: Path, *sources: str, tag: str = "parameters") -> Path:
    cells = [new.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = [tag]
    nbformat.write(new.new_notebook(cells=cells), path)
    return path


def test_parameters_go_in_output_comes_at_once_and_a_failed_run_is_still_written(tmp_path):
    folder = tmp_path / "work"  # a notebook runs in its own folder, wherever it is started from
    folder.mkdir()
    path = notebook(
        folder / "train.ipynb",
        "lr, name = 0.1, ''\nepochs = 2",
        "import os\nprint(lr + 1, name, epochs, os.getcwd(), flush=True)\n'a value'",
        "print('begin', end='\\r'); print('end of it', end='')\nopen('seen').read()",
        "raise ValueError('no such luck')",
        "print('never')",
    )
    (folder / "seen").write_text("")
    before = path.read_bytes()
    words = ("work/train.ipynb", "-p", "lr=1e-3", "-p", "name=first run", "-o", "out.ipynb")
    done = subprocess.run(
        [sys.executable, "-m", "accelnb", "run", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "cell 1/6: lr, name = 0.1, ''",
        "cell 2/6: # Parameters",
        "cell 3/6: import os",
        f"1.001 first run 2 {folder}",
        "'a value'",
        "cell 4/6: print('begin', end='\\r'); print('end of it', end='')",
        "end of it''",
        "cell 5/6: raise ValueError('no such luck')",
        "written to out.ipynb",
    ]
    assert "----> 1 raise ValueError('no such luck')" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last == "accelnb: cell 5 of train.ipynb: ValueError: no such luck"
    assert path.read_bytes() == before
    copy = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert copy.cells[1].source == "# Parameters\nlr = 0.001\nname = 'first run'"
    assert copy.cells[1].metadata["tags"] == ["injected-parameters"]
    assert [cell.execution_count for cell in copy.cells] == [1, 2, 3, 4, 5, None]
    assert copy.cells[4].outputs[0].ename == "ValueError"


WRONG = {
    "a name that no cell has": (("a.ipynb", "-p", "lrr=1"), "its cell tagged parameters sets lr"),
    "a text for a number": (("a.ipynb", "-p", "lr=fast"), "a.ipynb has lr = 1; give a number"),
    "a name that a cell sets again": (
        ("untagged.ipynb", "-p", "lr=2"),
        "its cell 1 would set lr again: give that cell the tag parameters",
    ),
    "only names that no cell gives a value of its own": (
        ("uses.ipynb", "-p", "x=1", "-p", "LR=2", "-p", "seed=3", "-o", "nowhere/b.ipynb"),
        "nowhere/b.ipynb cannot be written",
    ),
    "a text for an annotated number": (("typed.ipynb", "-p", "lr=abc"), "lr = 0.1; give a number"),
    "no value for a switch, which may be": (
        ("typed.ipynb", "-p", "fast=None", "-o", "nowhere/b.ipynb"),
        "nowhere/b.ipynb cannot be written",
    ),
    "no value": (("a.ipynb", "-p", "lr"), "-p lr: give NAME=VALUE, such as lr=1e-3"),
    "no file": (("b.ipynb",), "b.ipynb: no such file or directory"),
    "no notebook": (("text.ipynb",), "text.ipynb is not a notebook"),
    "no folder": (("a.ipynb", "-o", "nowhere/b.ipynb"), "nowhere/b.ipynb cannot be written"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_argument_is_one_line_and_nothing_runs(case, tmp_path, monkeypatch):
    words, message = WRONG[case]
    monkeypatch.chdir(tmp_path)
    notebook(Path("a.ipynb"), "lr = 1\nopen('started', 'w')")
    notebook(Path("untagged.ipynb"), "%load_ext accelnb\nlr = 1", tag="other")
    uses = "y = [x for x in range(3)]", "%%bash\nLR=2", "seed = int(seed)"
    notebook(Path("uses.ipynb"), *uses, tag="other")
    notebook(Path("typed.ipynb"), "lr: float = 0.1\nfast = False")
    Path("text.ipynb").write_text("no JSON")
    done = CliRunner().invoke(command, words)
    assert done.exit_code in (1, 2)
    assert message in done.stderr.splitlines()[-1]
    assert not Path("started").exists()
