"""What surrounds a notebook: temporary folder, working folder, environment, event loop."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from harness import Notebook, assert_ended

SERVER = "from accelnb.engine.launchers.local import fork_server as _server\n"


@pytest.fixture
def notebook_with(tmp_path, monkeypatch):
    """Start a kernel with variables of its own in its environment, and end it."""
    started = []

    def start(folder: Path = tmp_path, **env: str) -> Notebook:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        started.append(Notebook(folder))
        return started[-1]

    yield start
    for notebook in started:
        below = {process.pid for process in notebook.processes()}
        notebook.close()
        assert_ended(below)


# ---- where sockets and files are ----


def test_a_long_temporary_folder_with_blanks_and_other_letters(notebook_with, tmp_path):
    place = tmp_path / ("long" * 30) / "mit Leerzeichen ä ☃"
    place.mkdir(parents=True)
    notebook = notebook_with(TMPDIR=str(place))
    notebook.load()
    folders = notebook.run(SERVER + "[str(_server().folder), str(_server().sockets)]").value
    notebook.run("import torch\nbig = torch.ones(100_000)")
    for method in ("fork", "spawn"):
        options = f"--procs 2 --start {method} --out back"
        notebook.run(f"%%distributed {options}\nbig * (rank + 1)")
        assert notebook.run("[float(b.sum()) for b in back]").value == "[100000.0, 200000.0]"
    logs, sockets = (Path(folder) for folder in eval(folders))
    assert logs.parent == place
    assert any(path.is_socket() for path in sockets.iterdir())
    below = {process.pid for process in notebook.processes()}
    notebook.kill()
    assert_ended(below)
    assert not logs.exists()
    assert not sockets.exists()


def test_the_command_runs_a_notebook_with_a_long_temporary_folder(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    place = tmp_path / ("long" * 30)
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    code = "%load_ext accelnb\n%distributed --procs 2 rank"
    new = nbformat.v4
    nbformat.write(new.new_notebook(cells=[new.new_code_cell(code)]), tmp_path / "short.ipynb")
    done = command("run", str(tmp_path / "short.ipynb"))
    assert done.returncode == 0, done.stderr
    assert "[1] 1" in done.stdout + done.stderr


def test_in_a_removed_folder_the_cells_run(notebook_with, tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    notebook = notebook_with(folder)
    shutil.rmtree(folder)
    notebook.load()
    cell = "%%distributed --procs 2 --start {}\nimport torch\ntorch.ones(3, 3) @ torch.ones(3)"
    for method in ("fork", "spawn"):
        output = notebook.run(cell.format(method))
        assert output.stdout.count("tensor([3., 3., 3.])") == 1
        assert "[0-1] accelnb: the notebook's folder was removed" in output.stderr
    refused = notebook.run("%accelnb export train.py", fails=True)
    assert refused.error.startswith("ExportError: train.py cannot be written")
    assert len(refused.error.splitlines()) == 1
    notebook.run(f"import os\nos.chdir({str(tmp_path)!r})")
    assert notebook.run("%distributed __import__('os').getcwd()").lines == [f"[0-1] '{tmp_path}'"]


def test_a_folder_that_is_removed_while_ranks_live_leaves_them_one_to_work_in(
    notebook_with, tmp_path
):
    folder = tmp_path / "gone"
    folder.mkdir()
    notebook = notebook_with(folder)
    notebook.load()
    where = "%%distributed --procs 2\nimport os\nprint(os.getcwd())"
    assert notebook.run(where).lines == [f"[0-1] {folder}"]
    shutil.rmtree(folder)
    for cell in (where, where.replace("--procs 2", "--fresh")):
        output = notebook.run(cell)
        (here,) = output.said
        said = f"the notebook's folder was removed: this rank works in {here}"
        assert output.stderr == f"[0-1] accelnb: {said}, which is removed with the ranks\n"


def test_commands_say_in_a_removed_folder_what_is_wrong(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    done = subprocess.run(
        ["sh", "-c", f"cd {folder} && rmdir {folder} && {sys.executable} -P -m accelnb env"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    said = "accelnb: the folder that this was started in was removed: cd to another\n"
    assert done.stderr.endswith(said)
    assert "Traceback" not in done.stderr


# ---- the environment ----

PLACE = """%%distributed
import os
names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR TORCHELASTIC_RUN_ID".split()
[os.environ.get(name) for name in names]"""


def places(notebook: Notebook) -> list[str]:
    return notebook.run(PLACE).lines


RIGHT = [f"[{rank}] ['{rank}', '{rank}', '2', '2', '127.0.0.1', 'accelnb']" for rank in (0, 1)]


def test_which_rank_it_is_stays_a_ranks_own(shared_notebook):
    assert places(shared_notebook) == RIGHT
    shared_notebook.run(
        "import os\nos.environ.update(RANK='0', WORLD_SIZE='1', LOCAL_RANK='0', MASTER_ADDR='h', "
        "TORCHELASTIC_RUN_ID='mine', ANOTHER='1')"
    )
    told = shared_notebook.run(PLACE + ", os.environ['ANOTHER']")
    assert [line.replace("], '1')", "]").replace("([", "[") for line in told.lines] == RIGHT
    assert told.stderr.splitlines() == [
        "[0-1] accelnb: LOCAL_RANK, MASTER_ADDR, RANK, TORCHELASTIC_RUN_ID, WORLD_SIZE of the "
        "notebook: not taken over, for each rank has its own"
    ]
    shared_notebook.run("for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR'): del os.environ[name]")
    quiet = shared_notebook.run(PLACE)
    assert (quiet.lines, quiet.stderr) == (RIGHT, "")
    shared_notebook.run("%distributed os.environ.update(ROLE_NAME='of the cell')")
    assert shared_notebook.run("%distributed os.environ['ROLE_NAME']").lines == [
        "[0-1] 'of the cell'"
    ]


STARTED = {
    "torchrun": {
        "RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4",
        "GROUP_RANK": "1", "MASTER_ADDR": "elsewhere", "MASTER_PORT": "1",
        "TORCHELASTIC_RUN_ID": "of-the-notebook", "TORCHELASTIC_ERROR_FILE": "/nowhere",
    },
    "slurm and mpi": {
        "SLURM_JOB_ID": "1", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0", "SLURM_NTASKS_PER_NODE": "1", "SLURM_STEP_ID": "0",
        "PMI_RANK": "0", "PMI_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1",
    },
}  # fmt: skip


@pytest.mark.parametrize("by", STARTED)
def test_libraries_find_the_ranks_in_a_notebook_that_a_launcher_started(notebook_with, by):
    notebook = notebook_with(**STARTED[by])
    notebook.load()
    notebook.run("%distributed --procs 2 rank")
    assert places(notebook) == RIGHT
    assert notebook.run("%distributed os.environ.get('TORCHELASTIC_ERROR_FILE')").lines == []
    of_accelnb = "from accelnb import PartialState as S; (S().process_index, S().num_processes)"
    assert notebook.run(f"%distributed {of_accelnb}").lines == ["[0] (0, 2)", "[1] (1, 2)"]
    pytest.importorskip("lightning_fabric")
    of_fabric = (
        "from lightning_fabric import Fabric\nfabric = Fabric(accelerator='cpu', devices=2)\n"
        "fabric.launch()\n(fabric.global_rank, fabric.world_size)"
    )
    assert sorted(notebook.run(f"%%distributed\n{of_fabric}", timeout=90).lines) == [
        "[0] (0, 2)", "[1] (1, 2)",
    ]  # fmt: skip


THREADS = "%%distributed --procs 2\nimport os, torch\nprint(torch.get_num_threads(), {})"


@pytest.mark.parametrize("wrong", ["", "many", "0", "-1", "9" * 20])
def test_a_number_of_threads_that_is_none_counts_as_not_set(shared_notebook, wrong):
    cell = THREADS.format("os.environ['OMP_NUM_THREADS']")
    share = shared_notebook.run(cell).lines
    shared_notebook.run(f"import os\nos.environ['OMP_NUM_THREADS'] = {wrong!r}")
    output = shared_notebook.run(cell)
    said = f"[0-1] accelnb: OMP_NUM_THREADS={wrong!r} is no number of threads and counts as not set"
    assert (output.lines, output.stderr.partition(":")[2].count("\n")) == (share, 1)
    assert output.stderr.startswith(said)
    shared_notebook.run("os.environ['OMP_NUM_THREADS'] = '3,1'")
    assert shared_notebook.run(cell).lines == ["[0-1] 3 3,1"]
    shared_notebook.run("del os.environ['OMP_NUM_THREADS']")
    assert shared_notebook.run(cell).lines == share


def test_ranks_start_where_the_number_of_threads_is_none(notebook_with):
    notebook = notebook_with(OMP_NUM_THREADS="")
    notebook.load()
    for method in ("fork", "spawn"):
        output = notebook.run(f"%distributed --procs 2 --start {method} --fresh rank")
        assert output.lines == ["[0] 0", "[1] 1"]
        assert "[0-1] accelnb: OMP_NUM_THREADS='' is no number of threads" in output.stderr


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "Accelerator()"),
        ("MASTER_PORT", "PartialState()"),
        ("RANK", "PartialState()"),
    ],
)
def test_a_number_for_training_that_is_none_is_named(run_script, name, code):
    env = {"LOCAL_RANK": "0", "WORLD_SIZE": "1", name: "many"}
    script = run_script(f"from accelnb import Accelerator, PartialState\n{code}", **env)
    said = f"AccelnbError: {name}=many: set this environment variable to a number"
    assert script.stderr.splitlines()[-1].endswith(said)


# ---- asyncio ----

SLOW = (
    "import asyncio, time\nasync def slow(seconds):\n    await asyncio.sleep(seconds)\n    return 5"
)


def distributed(notebook: Notebook, code: str) -> list[str]:
    return notebook.run(f"%%distributed --procs 2\n{code}").lines


def test_a_task_of_one_cell_is_awaited_in_another(shared_notebook):
    distributed(shared_notebook, f"{SLOW}\ntask = asyncio.create_task(slow(0.2))")
    assert distributed(shared_notebook, "await task") == ["[0-1] 5"]
    distributed(shared_notebook, "task = asyncio.create_task(slow(0.1))")
    time.sleep(0.5)
    assert distributed(shared_notebook, "task.done()") == ["[0-1] True"]  # it ran meanwhile
    from_a_thread = (
        "import threading\nloop, values = asyncio.get_event_loop(), []\n"
        "def ask():\n    time.sleep(0.2)\n"
        "    future = asyncio.run_coroutine_threadsafe(slow(0), loop)\n"
        "    values.append(future.result(5))\n"
        "threading.Thread(target=ask).start()"
    )
    distributed(shared_notebook, from_a_thread)
    time.sleep(0.5)
    assert distributed(shared_notebook, "values") == ["[0-1] [5]"]


def test_all_cells_have_one_loop_and_it_outlives_what_they_do_with_it(shared_notebook):
    distributed(shared_notebook, f"{SLOW}\nqueue, lock = asyncio.Queue(1), asyncio.Lock()")
    distributed(shared_notebook, "await queue.put(1)\nput = asyncio.create_task(queue.put(2))")
    same = "asyncio.get_event_loop() is asyncio.get_running_loop()"
    assert distributed(shared_notebook, f"await queue.get(), await queue.get(), {same}") == [
        "[0-1] (1, 2, True)"
    ]
    assert distributed(shared_notebook, "asyncio.run(slow(0))") == ["[0-1] 5"]
    loop = "loop = asyncio.get_event_loop()\nprint(loop.run_until_complete(slow(0)))\nloop.close()"
    assert distributed(shared_notebook, loop) == ["[0-1] 5"]
    assert distributed(shared_notebook, "await slow(0)") == ["[0-1] 5"]


@pytest.mark.parametrize(
    ("cell", "line"),
    [
        ("print('at work', flush=True)\nawait asyncio.sleep(100)", 3),
        ("print('at work', flush=True)\nawait asyncio.gather(slow(100), slow(200))", 3),
        ("print('at work', flush=True)\nwhile True: await asyncio.sleep(0)", 3),
        ("await slow(0)\nprint('at work', flush=True)\nwhile True: pass", 4),
        (
            "print('at work', flush=True)\ntry:\n    await asyncio.sleep(100)\n"
            "finally:\n    await slow(0.1)\n    print('cleaned up')",
            4,
        ),
    ],
    ids=["sleep", "gather", "loop", "python", "finally"],
)
def test_stop_ends_a_cell_that_awaits_and_no_other_task(shared_notebook, cell, line):
    distributed(shared_notebook, f"{SLOW}\nother = asyncio.create_task(slow(1.5))")
    pressed = []

    def press(output):
        if "[0-1] at work" in output.stdout and not pressed:
            pressed.append(time.monotonic())
            threading.Timer(0.2, shared_notebook.interrupt).start()

    output = shared_notebook.run(f"%%distributed\n{cell}", fails=True, timeout=30, on_output=press)
    assert "KeyboardInterrupt: stopped ranks 0-1; variables are kept" in output.error
    assert f"line {line}" in output.error
    assert "finally" not in cell or "[0-1] cleaned up" in output.stdout
    assert distributed(shared_notebook, "await other") == ["[0-1] 5"]


def test_a_task_that_never_ends_leaves_the_ranks_usable_and_ends_with_them(notebook_with):
    notebook = notebook_with()
    notebook.load()
    distributed(
        notebook,
        f"{SLOW}\nasync def busy():\n    while True: pass\n"
        "kept, task = 7, asyncio.create_task(slow(1000))\nhog = asyncio.create_task(busy())",
    )
    threading.Timer(1.0, notebook.interrupt).start()
    notebook.run("%distributed rank", fails=True, timeout=20)
    assert distributed(notebook, "kept, task.done(), hog.done()") == ["[0-1] (7, False, True)"]
    for method in ("fork", "spawn"):
        code = "task = asyncio.create_task(slow(1000))\nawait slow(0)"
        notebook.run(f"%%distributed --fresh --start {method}\n{SLOW}\n{code}")
    begun = time.monotonic()
    output = notebook.run("%distributed --fresh --start fork rank")
    assert (output.lines, output.stderr) == (["[0] 0", "[1] 1"], "")
    assert time.monotonic() - begun < 5


def test_stop_ends_a_callback_that_keeps_a_cell_from_its_beginning(shared_notebook):
    hog = "def hog():\n    while True: pass\nasyncio.get_event_loop().call_soon(hog)"
    distributed(shared_notebook, f"import asyncio\nkept = 7\n{hog}")
    timer = threading.Timer(1.0, shared_notebook.interrupt)
    timer.start()
    shared_notebook.run("%distributed rank", fails=True, timeout=20)
    timer.join()
    assert distributed(shared_notebook, "kept") == ["[0-1] 7"]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "accelnb", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
