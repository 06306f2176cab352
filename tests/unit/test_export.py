"""What of a notebook is in its script, and what is refused with the cell and the line."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from notebook_files import write

from accelnb.export import ExportError, export_notebook, live
from accelnb.export.script_text.runtime_functions import join_text
from accelnb.options.config import LaunchConfig

JOB = "%%distributed --procs 2\nprint(x)"


def script_of(folder: Path, *sources: str | tuple[str, dict[str, Any]]) -> str:
    script = export_notebook(write(folder, *sources), folder / "train.py").script
    assert (folder / "train.py").read_text() == script
    return script


def refusal(folder: Path, *sources: str | tuple[str, dict[str, Any]]) -> str:
    with pytest.raises(ExportError) as error:
        export_notebook(write(folder, *sources), folder / "train.py")
    assert not (folder / "train.py").exists()
    assert "\n" not in str(error.value)
    return str(error.value)


def ran(text: str, count: int | None) -> tuple[str, dict[str, Any]]:
    return text, {"execution_count": count}


# ---- what is kept ----


def test_cells_that_only_look_are_left_out_and_what_the_job_needs_is_kept(tmp_path):
    script = script_of(
        tmp_path,
        "%load_ext accelnb\n%matplotlib inline\n!pip install 'einops>=0.7' rich  # two",
        "import pandas as pd\nimport matplotlib.pyplot as plt\nimport numpy as np",
        "# All there is.\nx = np.arange(3)\nunused = np.ones(9)",
        "x.mean()",
        "frame = pd.DataFrame({'x': x})\nframe.head()",
        "x.sort()\nx.shape",
        "plt.plot(x)\nprint(len(x))",
        "%timeit x + 1",
        JOB,
        "plt.plot(x)",
    )
    assert "    # All there is.\n    x = np.arange(3)\n" in script
    assert "x.sort()" in script
    assert "#     einops>=0.7\n#     rich\n" in script
    for left_out in ("plt", "frame", "pandas", "unused", "mean", "len(x)", "timeit", "shape"):
        assert left_out not in script


def test_a_name_has_the_value_that_the_job_saw_whatever_ran_after_it(tmp_path):
    script = script_of(
        tmp_path,
        ran("def f():\n    return y", 7),
        ran("y = 'after'", 9),
        ran("y = 'before'", 2),
        ran("x = 'never run'", None),
        ran("x = 'first'", 1),
        ran("def f():\n    return y + x", 3),
        ran("%%distributed\nprint(f())", 5),
    )
    assert "y = 'before'" in script
    assert "return y + x" in script
    assert "x = 'first'" in script
    assert "after" not in script
    assert "never run" not in script


def test_a_cell_that_ran_again_after_the_job_is_taken_as_it_stands_and_said(tmp_path):
    path = write(tmp_path, ran("x = 1", 8), ran(JOB, 3))
    exported = export_notebook(path, tmp_path / "train.py")
    assert "x = 1" in exported.script
    assert exported.notes == (
        "cell 1 (In [8]) ran again after cell 2 (In [3]): the script has it before",
    )


def test_what_is_printed_of_the_results_is_printed_once(tmp_path):
    script = script_of(
        tmp_path,
        "%%distributed --out losses --pull x\nx = rank\nx / 2",
        "worst = max(losses)\nprint(worst, x)",
        "worst",
    )
    assert "losses = from_all_ranks(x / 2)\n    x_of_ranks = from_all_ranks(x)\n" in script
    assert (
        "if rank == 0:\n        worst = max(losses)\n        print(worst, x_of_ranks)\n" in script
    )


def test_names_of_loops_and_of_annotations_need_no_binding_before(tmp_path):
    script_of(
        tmp_path,
        "from __future__ import annotations\n\n\n"
        "class Node:\n    def with_next(self, node: Node) -> Node:\n        return node",
        "data = [Node(), Node()]",
        "%%distributed\nfor epoch in range(2):\n    if epoch and best:\n        print(best)\n"
        "    for x in data:\n        loss = x\n    print(loss)\n    best = loss",
    )


def test_what_a_loop_around_launches_says_is_said_once(tmp_path):
    script = script_of(
        tmp_path,
        "import accelnb\n\n\ndef f(x):\n    return x",
        "for lr in (1, 2):\n    out = accelnb.launch(f, lr, procs=2)\n    print(\n        lr, out)"
        "\n    if lr: print('one')\n    print('two'); print('three')",
    )
    assert (
        "        out = from_all_ranks(f(lr))\n        if rank == 0:\n            print(\n" in script
    )
    assert "        if lr: print('one') if rank == 0 else None\n" in script
    assert "        print('two') if rank == 0 else None; print('three') if rank == 0" in script


def test_what_ipython_leaves_as_it_is_in_a_setting_is_a_text_in_the_script(tmp_path):
    script = script_of(
        tmp_path,
        'run = 3\n%env A={"x": 1}\n%env B=$PATH:/{run}\n%env C=$run-{run + 1}',
        "%%distributed\n%env D=$rank\nprint(rank)",
    )
    assert 'os.environ["A"] = "{\\"x\\": 1}"\n' in script
    assert 'os.environ["B"] = "$PATH:/{run}"\n' in script
    assert 'os.environ["C"] = f"{run}-{run + 1}"\n' in script
    assert 'os.environ["D"] = f"{rank}"\n' in script


def test_a_comment_behind_the_options_is_none_of_them(tmp_path):
    job = "%%distributed --procs 2   # it's for (two)\nprint(x)"
    script = script_of(tmp_path, "x = 1", job)
    assert "for (two)" not in script
    assert "--nproc-per-node 2" in script
    (tmp_path / "train.py").unlink()
    looks = refusal(tmp_path, "x = 1", "%distributed x  # as it is (for now)")
    assert "no cell runs on ranks" in looks


def test_a_line_that_runs_on_ranks_is_a_job_if_it_does_something(tmp_path):
    script = script_of(
        tmp_path, "%distributed --out total sum([rank, 1])", "%distributed rank", "print(total)"
    )
    assert "    total = from_all_ranks(sum([rank, 1]))\n" in script
    assert "print(rank)" not in script


def test_a_choice_that_reads_a_value_comes_after_it(tmp_path):
    choice = "if x:\n    y = 1\nelse:\n    y = 2"
    script = script_of(tmp_path, "x = len('ab')", choice, "%%distributed -n {x}\nprint(y)")
    assert script.index("x = len") < script.index("if x:")


def test_a_call_of_a_closure_is_kept_and_one_of_a_function_is_not(tmp_path):
    script = script_of(
        tmp_path,
        "def counter():\n    numbers = iter(range(9))\n    return lambda: next(numbers)",
        "count = counter()\nf = lambda: 3\ncounter()",
        "count()",
        "f()",
        "%%distributed\nprint(count(), f())",
    )
    assert "    count = counter()\n" in script
    assert "    count()\n" in script
    assert "    counter()\n" not in script
    assert "    f()\n" not in script


def test_star_imports_stand_alone(tmp_path):
    script = script_of(
        tmp_path, "from math import *\nfrom math import sin", "%%distributed\nsin(pi)"
    )
    assert "from math import *\nfrom math import sin\n" in script


def test_a_notebook_that_awaits_becomes_a_script_that_does(tmp_path):
    script = script_of(
        tmp_path,
        "async def load():\n    return [1]\n\n\nawait load()\nx = len(await load())",
        JOB,
    )
    assert "import asyncio\n" in script
    assert "    x = len(asyncio.run(load()))\n" in script


def test_results_that_nothing_uses_are_not_gathered(tmp_path):
    script = script_of(tmp_path, "%%distributed --out all --pull x\nx = rank\nx")
    assert "gather" not in script


def test_files_are_written_once_and_the_others_wait(tmp_path):
    script = script_of(tmp_path, "import os\nx = 'out'", "os.makedirs(x)\nos.environ['A'] = x", JOB)
    once = "    if local_rank == 0:\n        os.makedirs(x)\n    dist.barrier()"
    assert once in script
    assert "\n    os.environ['A'] = x" in script


def test_a_script_runs_alone_with_its_functions_and_its_typed_options(tmp_path):
    cell = "lr = 1e-3  # learning rate\nsteps: int = 3\nfast = False\nname = 'a'\nsizes = (1, 2)"
    script = script_of(
        tmp_path,
        (cell, {"metadata": {"tags": ["parameters"]}}),
        "def total():\n    return sum(data) + offset + lr",
        "data = list(range(steps + 1))\noffset = 1",
        "%%distributed\noffset = offset + rank\nprint(total(), steps, fast, name, sizes)",
    )
    assert "global data, lr, offset" in script
    assert 'help="learning rate (default: %(default)s)"' in script
    command = [sys.executable, tmp_path / "train.py", "--lr", "0.5", "--fast", "--sizes", "3", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "7.5 3 True a (3, 4)\n", done.stderr


def test_options_of_the_magic_line_are_settings_of_the_script(tmp_path):
    (tmp_path / "accelnb.yaml").write_text("version: 1\naccumulation: 4\n")
    line = (
        "%%distributed -n 4 --precision bf16 --outputs compute --mesh dp_shard=2,tp=2 --device cpu"
    )
    script = script_of(tmp_path, f"{line}\nprint(mesh)")
    assert 'PRECISION = "bf16"' in script
    assert 'os.environ.setdefault("ACCELNB_OUTPUTS", OUTPUTS)' in script
    assert "ACCUMULATION = 4" in script
    assert (
        'mesh = init_device_mesh(device.type, (2, 2), mesh_dim_names=("dp_shard", "tp"))' in script
    )
    assert "torchrun --nproc-per-node 4 train.py" in script


def test_a_script_elsewhere_is_told_of_the_modules_beside_the_notebook(tmp_path):
    (tmp_path / "helper.py").write_text("x = 1")
    (tmp_path / "scripts").mkdir()
    path = write(tmp_path, "from helper import x", JOB)
    (note,) = export_notebook(path, tmp_path / "scripts" / "train.py").notes
    assert note.endswith("start the script there, and keep it beside helper.py, which it imports")


def test_headings_title_and_strings_keep_their_form(tmp_path):
    text = '"""first\n  second"""'
    script = script_of(
        tmp_path,
        "#md # The *title*\n\nText.",
        "#md ## A [section](x.md)",
        f"%%distributed\nx = {text}\n\n\nfor i in range(2):\n    # why\n    print(i, x)",
    )
    assert script.startswith('"""The title.\n')
    assert "    # --- A section ---\n" in script
    assert f"    x = {text}\n\n    for i in range(2):\n        # why\n" in script
    ast.parse(script)


def test_a_part_for_some_ranks_and_a_function_that_rebinds_a_name_keep_their_meaning(tmp_path):
    script = script_of(
        tmp_path,
        "count = 0\n\n\ndef more():\n    global count\n    count += 1",
        "%env MODE=fast\nmore()",
        "%%distributed --ranks 1 -o last\nmore()\ntotal: int = count\ntotal",
        "print(last[0])",
    )
    assert 'os.environ["MODE"] = "fast"' in script
    assert "    global count\n" in script
    assert "    count = 0\n" in script
    assert "if rank == 1:\n        more()\n        total: int = count\n" in script
    assert "last = from_all_ranks(last if rank in (1,) else None)\n    last = [last[1]]" in script


# ---- what is refused ----


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (["x = 1"], "no cell runs on ranks: put %%distributed on the cell"),
        (["x = 1", "y = (", JOB], "cell 2, line 1: '(' was never closed"),
        (["\n\nx = = 1", JOB], "cell 1, line 3: invalid syntax"),
        ([JOB], "cell 1, line 2: x is bound in no cell (was its cell deleted or edited?)"),
        (["def f():\n    return x", "%%distributed\nf()"], "cell 2, line 2: x (in what it"),
        ([ran("a = b + 1", 4), ran("b = a + 1", 3), ran(f"{JOB}, a", 5), ran("x = 1", 1)],
         "cell 2 (In [3]), line 1: a is bound only by cell 1 (In [4]), line 1, which ran later"),
        (["x = x + 1", JOB], "cell 1, line 1: x has no value before cell 1, line 1 changes it"),
        (["%run other.py", JOB],
         "cell 2, line 2: x is bound in no cell, perhaps by %run other.py (cell 1, line 1): "),
        (["files = !ls\nx = files", JOB], "cell 1, line 1: it has no script form"),
        (["x = _3", JOB], "cell 1, line 1: _3 exists only in IPython"),
        (["%%distributed\nx = 1\n%run other.py"], "cell 1, line 3: %run has no script form"),
        (["%%distributed\nx = 1\n!ls {x}"], "cell 1, line 3: !ls {x}: the command reads variables"),
        (["%%distributed --procs 0\n1"], "cell 1, line 1: %%distributed: procs=0: must be"),
        (["%%distributed --device xla\n1"], "device=xla: an exported script has no form for TPUs"),
        (["%%distributed --speed 2\n1"], "cell 1, line 1: %%distributed: unrecognized arguments"),
        (["import asyncio", "%%distributed\nawait asyncio.gather()"],
         "cell 2, line 2: it awaits outside of a function, and a script has no running event loop"),
        (["x = 1", "%%distributed\nx = rank", "y = x", f"{JOB}, y"],
         "cell 3, line 1: x is the notebook's here, but cell 2, line 2 gives it another value"),
        (["import accelnb\nx = accelnb.last_run()", JOB],
         "cell 1, line 2: accelnb.last_run has no script form"),
        (["x = input('how many? ')", JOB], "cell 1, line 1: input() has no script form: bind"),
        (["%%distributed -n 2\n# nothing"], "no cell runs on ranks"),
        (["rank = 8\nx = rank * 2", JOB], "cell 1, line 1: rank is each process's own number"),
        (["%%distributed\ny = 1", "z = y", "%%distributed\nprint(z)"],
         "cell 2, line 1: y is bound only on the ranks, by cell 1, line 2: bring it back"),
    ],
)  # fmt: skip
def test_what_cannot_leave_the_notebook_is_named_with_cell_and_line(tmp_path, cells, said):
    assert refusal(tmp_path, *cells).startswith(said)


def test_a_file_is_not_replaced_without_force_and_never_half_written(tmp_path):
    notebook = write(tmp_path, "x = 1", JOB)
    (tmp_path / "train.sbatch").write_text("mine")
    with pytest.raises(ExportError, match=r"a/train\.py cannot be written: there is no folder"):
        export_notebook(notebook, tmp_path / "a" / "train.py")
    with pytest.raises(ExportError, match=r"train\.sbatch is there already: give --force"):
        export_notebook(notebook, tmp_path / "train.py", launchers=["slurm"])
    assert {path.name for path in tmp_path.iterdir()} == {"notebook.ipynb", "train.sbatch"}
    export_notebook(notebook, tmp_path / "train.py", launchers=["slurm"], force=True)
    assert "srun torchrun" in (tmp_path / "train.sbatch").read_text()


def test_a_slurm_node_that_the_others_cannot_reach_is_named_before_the_start(tmp_path):
    export_notebook(write(tmp_path, "x = 1", JOB), tmp_path / "train.py", launchers=["slurm"])
    for name, does in {
        "scontrol": "echo n1; echo n2",
        "hostname": "echo n1",
        "getent": 'echo "127.0.1.1 $2"',
        "srun": 'echo "$@" >> ran; exec "$@"',
        "torchrun": "exit 0",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "2"}
    job |= {"SLURM_JOB_NODELIST": "n[1-2]", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for more, code in ({}, 1), ({"GLOO_SOCKET_IFNAME": "eth0"}, 0):
        command = ["bash", "train.sbatch", "--lr", "1"]
        done = subprocess.run(
            command, cwd=tmp_path, env=job | more, capture_output=True, text=True, timeout=20
        )
        assert done.returncode == code, done.stderr
        assert ("n1: its name leads to a loopback address" in done.stderr) == bool(code)
    assert (tmp_path / "ran").read_text().count("torchrun --nnodes 2") == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "notebook.ipynb, line 1: is not a notebook"),
        ('{"worksheets": []}', "an old form of notebook: open it in Jupyter and save it"),
        ('{"cells": [], "metadata": {"kernelspec": {"language": "R"}}}', "is a notebook of R"),
        (b"\xff\xfe", "is not text in UTF-8"),
    ],
)
def test_a_file_that_is_no_notebook_is_named(tmp_path, content, said):
    path = tmp_path / "notebook.ipynb"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ExportError) as error:
        export_notebook(path, tmp_path / "train.py")
    assert said in str(error.value)


# ---- the live notebook ----


def kernel(path: Path, *inputs: str, **variables: Any) -> Any:
    """Return what `live` reads of a shell whose notebook is `path`."""
    history = SimpleNamespace(input_hist_raw=["", *inputs, "%accelnb export"])
    names = {"__vsc_ipynb_file__": str(path), **variables}
    return SimpleNamespace(
        history_manager=history, execution_count=len(inputs) + 1, user_ns=names, starting_dir="/"
    )


def test_a_name_that_only_the_live_kernel_has_is_reported_with_the_cell_that_bound_it(tmp_path):
    path = write(tmp_path, "y = 1", JOB)
    shell = kernel(path, "x = 1", "y = 1", JOB, x=1, y=1)
    with pytest.raises(ExportError) as error:
        live(shell, tmp_path / "train.py")
    assert "x exists only in the live kernel: In [1] bound it" in str(error.value)


def test_the_live_kernel_says_what_ran_and_in_which_order(tmp_path):
    stale = (ran("x = 'old'", 40), ran(JOB, 50), ran("x = 'new'", 3))
    shell = kernel(write(tmp_path, *stale), "x = 'new'", JOB, "x = 'old'")
    assert "x = 'new'" in live(shell, tmp_path / "train.py").script


def test_a_notebook_that_was_not_saved_is_noticed(tmp_path):
    shell = kernel(write(tmp_path, "x = 1"), "x = 1", JOB)
    with pytest.raises(ExportError, match=r"In \[2\] is not in notebook.ipynb as it ran: save"):
        live(shell, tmp_path / "train.py")


def test_without_a_file_the_cells_are_what_was_run(tmp_path):
    shell = kernel(tmp_path / "none.ipynb", "x = (", "x = 1", JOB, JOB)
    script = live(shell, tmp_path / "train.py").script
    assert script.count("print(x)") == 1


@pytest.mark.parametrize(
    ("local_rank", "procs", "index", "backend"),
    [(1, 2, 1, None), (1, 4, 1, "gloo"), (3, 4, 1, "gloo")],
)
def test_processes_of_a_script_share_gpus_where_there_are_fewer(
    monkeypatch, local_rank, procs, index, backend
):
    text = join_text(LaunchConfig(), makes_group=True, shares_cores=False, several=False)
    chosen: list[Any] = []
    accelerator = SimpleNamespace(
        is_available=lambda: True,
        current_accelerator=lambda: SimpleNamespace(type="cuda"),
        device_count=lambda: 2,
        set_device_index=chosen.append,
    )
    fake_torch = SimpleNamespace(
        accelerator=accelerator, device=lambda *of: SimpleNamespace(index=of[1])
    )
    dist = SimpleNamespace(init_process_group=lambda backend, **_: chosen.append(backend))
    place = {"RANK": local_rank, "LOCAL_RANK": local_rank, "MASTER_ADDR": "localhost"}
    for name, value in (place | {"WORLD_SIZE": procs, "LOCAL_WORLD_SIZE": procs}).items():
        monkeypatch.setenv(name, str(value))
    names: dict[str, Any] = {"os": os, "torch": fake_torch, "dist": dist}
    exec(text.replace(" -> torch.device", ""), names)
    names["join_process_group"]()
    assert chosen == [index, backend]
