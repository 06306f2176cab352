"""A script becomes a notebook, and an exported one the notebook that it was."""

from __future__ import annotations

import json
from pathlib import Path

from notebook_files import write

from accelnb.export import export_notebook, import_script

SCRIPT = '''\
"""Train a line."""

import argparse

import torch
import torch.distributed as dist

WIDTH = 3


def parse_args():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=0.1, help="learning rate")
    parser.add_argument("--fast", action="store_true")
    return parser.parse_args()


# ---- The model ----


class Net(torch.nn.Module):
    """A line."""


def main():
    args = parse_args()
    dist.init_process_group("gloo")

    # ---- The training ----
    net = Net()
    for step in range(2):
        # one step
        print(step, args.lr, WIDTH)

    dist.destroy_process_group()


if __name__ == "__main__":
    main()
'''


def cells_of(path: Path) -> list[tuple[str, str, list[str]]]:
    document = json.loads(path.read_text())
    return [
        (cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", []))
        for cell in document["cells"]
    ]


def test_a_script_becomes_a_notebook_with_sensible_cells(tmp_path):
    import nbformat

    (tmp_path / "train.py").write_text(SCRIPT)
    import_script(tmp_path / "train.py", tmp_path / "train.ipynb")
    nbformat.validate(nbformat.read(tmp_path / "train.ipynb", as_version=4))
    assert cells_of(tmp_path / "train.ipynb") == [
        ("markdown", "# Train a line", []),
        ("code", "%load_ext accelnb", []),
        ("code", "import argparse\n\nimport torch\nimport torch.distributed as dist", []),
        ("code", "WIDTH = 3", []),
        ("markdown", "## The model", []),
        ("code", 'class Net(torch.nn.Module):\n    """A line."""', []),
        ("code", "lr = 0.1  # learning rate\nfast = False", ["parameters"]),
        ("code", "from argparse import Namespace\n\nargs = Namespace(lr=lr, fast=fast)", []),
        ("code", '%%distributed\ndist.init_process_group("gloo")', []),
        ("markdown", "## The training", []),
        (
            "code",
            "%%distributed\nnet = Net()\nfor step in range(2):\n    # one step\n"
            "    print(step, args.lr, WIDTH)",
            [],
        ),
    ]


def test_what_a_definition_needs_of_the_job_is_there_before_it(tmp_path):
    (tmp_path / "a.py").write_text(
        "import argparse\nimport torch\n\nwidth = len('ab')\nbest = 0\n\n\n"
        "def f(n=width):\n    return n\n\n\nfor i in range(2):\n    best += f()\nbest = 0\n\n\n"
        "def work(seed):\n    print(seed)\n\n\n"
        "def main(args):\n    x = args.lr\n    return x\n\n\n"
        "def parse():\n    parser = argparse.ArgumentParser()\n"
        "    parser.add_argument('--lr', default=1)\n    return parser.parse_args()\n\n\n"
        "if __name__ == '__main__':\n    work(3)\n    raise SystemExit(main(parse()))\n"
    )
    import_script(tmp_path / "a.py", tmp_path / "a.ipynb")
    code = [text for kind, text, _ in cells_of(tmp_path / "a.ipynb") if kind == "code"]
    assert code[1:] == [
        "import argparse\nimport torch",
        "def work(seed):\n    print(seed)",
        "lr = 1",
        "from argparse import Namespace\n\nargs = Namespace(lr=lr)",
        "%%distributed\nwidth = len('ab')\nbest = 0\n\ndef f(n=width):\n    return n\n\n"
        "for i in range(2):\n    best += f()\nbest = 0\nwork(3)\nx = args.lr\nx",
    ]


def test_marks_of_cells_are_honoured(tmp_path):
    (tmp_path / "a.py").write_text(
        "# ---\n# jupyter: {}\n# ---\n\n# %% [markdown]\n# # Title\n#\n# Text.\n\n"
        '# %% tags=["parameters"]\nlr = 1\n\n# %%\n# %%distributed --procs 2\nprint(lr)\n'
    )
    import_script(tmp_path / "a.py", tmp_path / "a.ipynb")
    assert cells_of(tmp_path / "a.ipynb") == [
        ("markdown", "# Title\n\nText.", []),
        ("code", "lr = 1", ["parameters"]),
        ("code", "%%distributed --procs 2\nprint(lr)", []),
    ]


def test_an_exported_script_comes_back_as_the_notebook_that_it_was(tmp_path):
    (tmp_path / "there").mkdir()
    export_notebook(
        write(
            tmp_path,
            ("lr = 0.5", {"metadata": {"tags": ["parameters"]}}),
            "def f(x):\n    return lr * x",
            "#md ## First",
            "%%distributed -n 3 --precision bf16\nx = f(rank)",
            "#md ## Second",
            "%%distributed --precision bf16\nprint(x)",
        ),
        tmp_path / "train.py",
    )
    import_script(tmp_path / "train.py", tmp_path / "there" / "notebook.ipynb")
    cells = cells_of(tmp_path / "there" / "notebook.ipynb")
    code = [source for kind, source, _ in cells if kind == "code"]
    assert "%%distributed --procs 3 --precision bf16\nx = f(rank)" in code
    assert code[-1] == "%%distributed --procs 3 --precision bf16\nprint(x)"
    assert "lr = 0.5" in code
    assert not any("join_process_group" in source for source in code)
