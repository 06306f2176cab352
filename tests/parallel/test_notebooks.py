"""The tutorials run headless, and show what they promise."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

from accelnb.export import export_notebook

ROOT = Path(__file__).parents[2]


def test_the_quickstart_reaches_its_accuracy_and_is_saved_as_notebook_and_html():
    demo = subprocess.run(
        [sys.executable, "notebooks/run_demo.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    executed = nbformat.read(ROOT / "build" / "demo" / "quickstart.ipynb", as_version=4)
    printed = "".join(o.get("text", "") for c in executed.cells for o in c.get("outputs", []))
    accuracy = re.search(r"^test accuracy: ([01]\.\d+)$", printed, re.MULTILINE)
    assert accuracy, printed
    assert float(accuracy[1]) >= 0.95
    outputs = [o for cell in executed.cells for o in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert "<img" in (ROOT / "build" / "demo" / "quickstart.html").read_text()


def test_a_notebook_runs_headless_and_is_readable_when_saved(tmp_path):
    cells = [
        "%load_ext accelnb",
        "%%distributed --procs 2 --out squares\n"
        "from tqdm import tqdm\nfor i in tqdm(range(3)): pass\nprint('hello')\nrank ** 2",
        "list(squares)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(
        notebook, timeout=90, resources={"metadata": {"path": tmp_path}}
    ).execute()
    shown = notebook.cells[1].outputs
    assert any(o.get("text") == "[0-1] hello\n" for o in shown)
    assert notebook.cells[2].outputs[0]["data"]["text/plain"] == "[0, 1]"


def outputs_of(name: str, folder: Path, timeout: int) -> list[nbformat.NotebookNode]:
    """Execute a tutorial in a folder; return the outputs of its cells."""
    notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    resources = {"metadata": {"path": folder}}
    nbclient.NotebookClient(notebook, timeout=timeout, resources=resources).execute()
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def test_the_gpt_notebook_resumes_as_if_it_had_never_stopped(tmp_path):
    outputs = outputs_of("gpt.ipynb", tmp_path, timeout=100)
    printed = "".join(output.get("text", "") for output in outputs)
    assert "the same losses: True" in printed
    begin, end = re.findall(r"loss (\d\.\d+) at the beginning, (\d\.\d+) at the end", printed)[0]
    assert float(end) < 0.6 * float(begin)
    charts = [output["data"]["text/plain"] for output in outputs if "data" in output]
    assert any("loss  step 124" in chart for chart in charts)


@pytest.mark.timeout(400)
def test_the_sharding_notebook_trains_resumes_and_exports_with_the_same_losses(tmp_path):
    outputs = outputs_of("sharding.ipynb", tmp_path, timeout=170)
    printed = "".join(output.get("text", "") for output in outputs)
    drawn = "".join(output.get("data", {}).get("text/plain", "") for output in outputs)
    assert "each rank holds 26% of what it holds with DDP" in printed
    assert "GPT on 4 ranks, dp_shard 2 x tp 2" in drawn
    assert "UserWarning" not in printed
    said = re.findall(r"losses differ by (\S+) at most", printed)
    assert len(said) == 2
    assert max(map(float, said)) < 2e-6

    export_notebook(ROOT / "notebooks" / "sharding.ipynb", tmp_path / "train.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*command, "--nproc-per-node=4", "train.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    last = "828,007 weights, loss "
    assert last in printed
    assert done.stdout.partition(last)[2][:4] == printed.partition(last)[2][:4]
