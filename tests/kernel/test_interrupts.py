"""The stop button: the notebook comes back, the ranks and their variables stay."""

from __future__ import annotations

import threading
import time

import pytest

pytestmark = pytest.mark.alone  # it measures time

# Promised: 3 s. A hang would be 30 s and more.
SOON = 6.0

WORK = (
    "import signal, time, torch, torch.distributed as dist\nfrom torch.distributed import P2POp\n"
    "t, big = torch.ones(4), torch.ones(4_000_000)\nother = 1 - rank\n"
    "store = dist.distributed_c10d._get_default_store()\nprint('at work', flush=True)\n"
)
AGAIN = (
    "%%distributed\nimport torch, torch.distributed as dist\n"
    "t = torch.ones(1); dist.all_reduce(t); (kept, t.item())"
)


def stopped(notebook, cell: str, after: str = "[0-1] at work"):
    """Run a cell, press the stop button when it has printed, return its output."""
    pressed = []

    def press(output):
        if after in output.stdout and not pressed:
            pressed.append(time.monotonic())
            # A moment later, so that the ranks are where the cell goes next.
            threading.Timer(0.3, notebook.interrupt).start()

    output = notebook.run(f"%%distributed\n{cell}", fails=True, timeout=40, on_output=press)
    assert time.monotonic() - pressed[0] < SOON
    return output


@pytest.fixture
def pids(shared_notebook):
    def read() -> str:
        shared_notebook.run("%%distributed --out pids\nimport os; os.getpid()")
        return shared_notebook.run("list(pids)").value

    shared_notebook.run("%distributed globals().update(kept=7)")
    return read


@pytest.mark.parametrize(
    ("cell", "line"),
    [
        ("print('at work', flush=True)\nwhile True:\n    pass", 3),
        ("import time\nprint('at work', flush=True)\ntime.sleep(100)", 4),
        (
            "import torch.distributed as dist\nprint('at work', flush=True)\n"
            "if rank == 0:\n    dist.barrier()\nelse:\n    while True: pass",
            5,
        ),
        (
            "import torch.distributed as dist, torch\nprint('at work', flush=True)\n"
            "if rank == 0:\n    dist.barrier()\n"
            "else:\n    dist.all_reduce(torch.ones(1)); dist.all_reduce(torch.ones(1))",
            5,
        ),
        (
            "import time, torch.utils.data as data\nclass Slow(data.Dataset):\n"
            "    def __len__(self): return 1000\n"
            "    def __getitem__(self, i): time.sleep(0.2); return i\n"
            "print('at work', flush=True)\n"
            "for batch in data.DataLoader(Slow(), num_workers=2): pass",
            7,
        ),
        ("import subprocess\nprint('at work', flush=True)\nsubprocess.run(['sleep', '100'])", 4),
    ],
    ids=["python", "sleep", "collective", "mismatch", "dataloader", "subprocess"],
)
def test_stop_ends_the_cell_and_keeps_ranks_and_state(shared_notebook, pids, cell, line):
    before = pids()
    output = stopped(shared_notebook, cell)
    assert "KeyboardInterrupt: stopped ranks 0-1; variables are kept" in output.error
    assert f", line {line}" in output.error
    assert shared_notebook.run(AGAIN).lines == ["[0-1] (7, 2.0)"]
    assert pids() == before


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("dist.recv(t, other)", "recv from rank 1"),
        ("if rank == 0: dist.recv(t)", "recv from any rank"),
        ("if rank == 0: dist.send(big, 1)\ntime.sleep(100)", "send to rank 1"),
        ("if rank == 1: dist.irecv(t, 0).wait()", "recv from rank 0"),
        ("if rank == 1: dist.isend(t, 0).wait()", "send to rank 0"),
        (
            "for w in dist.batch_isend_irecv([P2POp(dist.irecv, t, other)]): w.wait()",
            "recv from rank 1",
        ),
        ("if rank == 0: dist.recv_object_list([None], 1)", "recv from rank 1"),
        ("dist.send_object_list([1], other)", "send to rank 1"),
        ("if rank == 0: dist.monitored_barrier()", "monitored_barrier"),
        ("if rank == 1: dist.monitored_barrier()", "monitored_barrier"),
        ("group = dist.new_group([0, 1])\ndist.recv(t, other, group)", "recv from rank 1"),
        ("if rank == 1: dist.new_group([0, 1])", "new_group"),
        ("if rank == 0: dist.init_process_group()", "init_process_group"),
        ("if rank == 1: store.barrier('b', 2)", "store barrier 'b'"),
        (
            "try: dist.recv(t, other)\nexcept RuntimeError:\n    while True: time.sleep(1)",
            "recv from rank 1",
        ),
    ],
    ids=[
        "recv", "recv-any", "send", "irecv", "isend", "batch", "recv-objects", "send-objects",
        "monitored-0", "monitored-1", "subgroup", "new-group", "init", "store-barrier", "caught",
    ],
)  # fmt: skip
def test_stop_ends_a_wait_for_another_rank_and_keeps_state(shared_notebook, pids, cell, said):
    before = pids()
    output = stopped(shared_notebook, WORK + cell)
    assert "KeyboardInterrupt: stopped ranks 0-1; variables are kept" in output.error
    assert f"(in {said})" in output.error
    assert shared_notebook.run(AGAIN).lines == ["[0-1] (7, 2.0)"]
    assert pids() == before


@pytest.mark.parametrize(
    "cell",
    [
        "while True: pass",
        "time.sleep(100)",
        "signal.signal(2, lambda *_: None)\nwhile True: pass",
        "store.wait(['absent'])",
        "store.get('absent')",
        "dist.PrefixStore('mine', store).get('absent')",
        "store.queue_pop('absent')",
        "dist.TCPStore('127.0.0.1', 9)",
    ],
)
def test_stop_of_what_waits_for_no_rank_leaves_group_and_store(shared_notebook, pids, cell):
    shared_notebook.run("%%distributed\nimport torch.distributed as dist\nworld = dist.group.WORLD")
    output = stopped(shared_notebook, WORK + cell)
    assert "KeyboardInterrupt: stopped ranks 0-1; variables are kept" in output.error
    kept = "(kept, dist.group.WORLD is world, store.get('now'))"
    after = shared_notebook.run(f"%%distributed\nstore.set('now', 'set')\n{kept}")
    assert after.lines == ["[0-1] (7, True, b'set')"]


def test_stop_keeps_a_store_that_the_user_made(shared_notebook, pids):
    cell = (
        "port = [0]\n"
        "if rank == 0: own = dist.TCPStore('127.0.0.1', 0, is_master=True); port = [own.port]\n"
        "dist.broadcast_object_list(port, 0)\n"
        "if rank == 1: own = dist.TCPStore('127.0.0.1', port[0])\nown.wait(['absent'])"
    )
    output = stopped(shared_notebook, WORK + cell)
    assert "(in store wait for key 'absent')" in output.error
    again = "%%distributed\nif rank == 0: own.set('now', 'set')\nown.get('now')"
    assert shared_notebook.run(again).lines == ["[0-1] b'set'"]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            "store.wait(['absent'], timedelta(seconds=0.2))",
            "wait timeout after 200ms, keys: absent",
        ),
        ("store.wait((key for key in ['absent']), 0.2)", "wait timeout after 200ms, keys: absent"),
        ("dist.TCPStore('127.0.0.1', 9, timeout=0.2)", "no store has come to 127.0.0.1:9"),
        ("store.wait([b'absent'], 0.2)", "wait timeout after 200ms"),
        ("store.wait('absent', 0.2)", "TypeError: wait(): incompatible function arguments"),
    ],
)
def test_a_store_still_raises_when_its_time_is_over(shared_notebook, call, said):
    """It takes what torch takes: seconds, any iterable of keys."""
    cell = (
        "%%distributed\nimport torch.distributed as dist\nfrom datetime import timedelta\n"
        f"store = dist.distributed_c10d._get_default_store()\n{call}"
    )
    output = shared_notebook.run(cell, fails=True)
    assert said in output.error
    assert output.seconds < 2


def test_a_store_written_in_python_needs_no_more_than_torch_asks_of_it(shared_notebook):
    cell = (
        "%%distributed\nimport torch.distributed as dist\nclass Mine(dist.Store):\n"
        "    values = {}\n"
        "    def set(self, key, value): self.values[key] = value\n"
        "    def get(self, key): return self.values[key]\n"
        "mine = Mine()\nstore = dist.PrefixStore('a', mine)\nstore.set('b', b'c')\nstore.get('b')"
    )
    assert shared_notebook.run(cell).lines == ["[0-1] b'c'"]


def test_stop_while_the_group_is_made_again_leaves_ranks_and_state(shared_notebook, pids):
    before = pids()
    slow = (
        "import accelnb.worker.main as main\nform = main.Rank._form\n"
        "def slow(self, rendezvous):\n    time.sleep(rank)\n    form(self, rendezvous)\n"
        "main.Rank._form = slow\n"
    )
    stopped(shared_notebook, f"{WORK}{slow}if rank == 0: dist.recv(t, 1)\ntime.sleep(100)")
    timer = threading.Timer(0.4, shared_notebook.interrupt)
    timer.start()
    again = shared_notebook.run(AGAIN, fails=True, timeout=20)
    assert "KeyboardInterrupt" in again.ename + again.error
    timer.join()
    reset = "%%distributed\nmain.Rank._form = form"
    shared_notebook.run(reset)
    assert shared_notebook.run(AGAIN).lines == ["[0-1] (7, 2.0)"]
    assert pids() == before


def test_a_thread_of_the_cell_that_waits_is_told_of_lost_connections(shared_notebook, pids):
    """And raises no KeyboardInterrupt, which is the main thread's."""
    cell = (
        "errors = []\ndef wait():\n    try: dist.recv(t, other)\n"
        "    except BaseException as error: errors.append(type(error).__name__)\n"
        "import threading\nthread = threading.Thread(target=wait)\nthread.start()\n"
        "if rank == 0: dist.recv(t, 1)\ntime.sleep(100)"
    )
    output = stopped(shared_notebook, WORK + cell)
    assert "KeyboardInterrupt: stopped ranks 0-1; variables are kept" in output.error
    after = "%%distributed\nthread.join(10)\nerrors"
    assert shared_notebook.run(after).lines == ["[0-1] ['RuntimeError']"]


def test_stop_while_an_error_is_told_leaves_ranks_and_state(shared_notebook, pids):
    before = pids()
    cell = (
        "import time\nimport accelnb.worker.main as main\nclass Slow:\n"
        "    def search(self, text):\n        main.LOST_PEER = usual\n"
        "        print('at work', flush=True)\n        time.sleep(1.2)\n"
        "usual, main.LOST_PEER = main.LOST_PEER, Slow()\nraise RuntimeError('mine')"
    )
    output = stopped(shared_notebook, cell)
    assert "KeyboardInterrupt: stopped ranks 0-1; variables are kept" in output.error
    assert shared_notebook.run(AGAIN).lines == ["[0-1] (7, 2.0)"]
    assert pids() == before


IGNORED, DEFAULT = (f"signal.signal(2, signal.{name})" for name in ("SIG_IGN", "SIG_DFL"))
BLOCKED = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])"
CALLED = "signal.signal(signal.SIGINT, lambda *_: print('called'))"
WAITS = {
    "python": "while True: pass",
    "sleep": "time.sleep(100)",
    "collective": "if rank == 0: dist.barrier()\ntime.sleep(100)",
    "recv": "if rank == 0: dist.recv(t, 1)\ntime.sleep(100)",
}


@pytest.mark.parametrize(
    ("handler", "cell"),
    [
        *((CALLED, cell) for cell in WAITS),
        *((IGNORED, cell) for cell in WAITS),
        (DEFAULT, "sleep"),
        (BLOCKED, "python"),
    ],
)
def test_stop_keeps_state_whatever_a_cell_made_of_sigint(shared_notebook, pids, handler, cell):
    before = pids()
    output = stopped(shared_notebook, f"{WORK}{handler}\n{WAITS[cell]}")
    assert "KeyboardInterrupt: stopped ranks 0-1; variables are kept" in output.error
    if handler is CALLED:  # as in a notebook, it is tried first
        assert "called" in output.stdout
    assert shared_notebook.run(AGAIN).lines == ["[0-1] (7, 2.0)"]
    assert pids() == before


def test_a_handler_of_one_cell_is_not_the_next_ones(shared_notebook, pids):
    shared_notebook.run(f"%%distributed\nimport signal\n{CALLED}\n{BLOCKED}")
    output = stopped(shared_notebook, WORK + "time.sleep(100)")
    assert "called" not in output.stdout
    assert "stopped ranks 0-1; variables are kept" in output.error
    raised = (
        "%%distributed\nimport signal\ntry: signal.raise_signal(signal.SIGINT)\n"
        "except KeyboardInterrupt: print('raised')"
    )
    assert shared_notebook.run(raised).lines == ["[0-1] raised"]


@pytest.mark.parametrize(
    ("handler", "cell", "printed"),
    [
        ("going.clear()", "while going: time.sleep(0.1)\ntime.sleep(0.5)\nprint('saved')", "saved"),
        (
            "1 / 0",
            "try: time.sleep(100)\nexcept ZeroDivisionError: time.sleep(0.5); print('saved')",
            "saved",
        ),
        ("1 / 0", "try: dist.recv(t, other)\nexcept ZeroDivisionError: print('saved')", "saved"),
    ],
    ids=["flag", "own-exception", "own-exception-in-recv"],
)
def test_a_handler_of_the_cell_may_end_it_itself(shared_notebook, pids, handler, cell, printed):
    define = f"going = [1]\ndef on_signal(*_): {handler}\nsignal.signal(signal.SIGINT, on_signal)\n"
    output = stopped(shared_notebook, WORK + define + cell)
    assert f"[0-1] {printed}" in output.stdout
    assert "stopped ranks 0-1; variables are kept" in output.error
    assert shared_notebook.run(AGAIN).lines == ["[0-1] (7, 2.0)"]


def test_a_rank_that_cannot_be_interrupted_is_replaced_and_the_user_told(shared_notebook, pids):
    output = stopped(
        shared_notebook,
        "import ctypes, time\nprint('at work', flush=True)\n"
        "time.sleep(0.2)  # the line is out before the lock is kept\n"
        "if rank == 1:\n    ctypes.PyDLL(None).sleep(100)  # keeps Python's lock\n"
        "while True: pass",
    )
    assert "stopped rank 0; variables are kept" in output.error
    assert "rank 1 did not answer: replaced, variables lost" in output.error
    after = shared_notebook.run("%distributed globals().get('kept')")
    assert after.lines == ["[0] 7"]
    assert "rank 1 replaced: variables are lost there, kept elsewhere" in after.stderr


def test_the_cell_may_clean_up_when_it_is_stopped(shared_notebook, pids):
    output = stopped(
        shared_notebook,
        "import time\nprint('at work', flush=True)\ntry:\n    time.sleep(100)\n"
        "finally:\n    time.sleep(0.5)\n    print('cleaned up')",
    )
    assert "[0-1] cleaned up" in output.stdout
    assert shared_notebook.run("%distributed kept").lines == ["[0-1] 7"]


def test_stop_while_ranks_start_leaves_the_next_cell_working(notebook):
    timer = threading.Timer(0.02, notebook.interrupt)
    timer.start()
    try:
        notebook.run("%%distributed --procs 2 --start spawn\nrank", fails=True, timeout=60)
    finally:
        timer.join()
    assert notebook.run("%distributed --procs 2 --start fork rank").lines == ["[0] 0", "[1] 1"]


def test_stop_while_values_are_packed_sends_nothing(shared_notebook, pids):
    shared_notebook.run(
        "import time\nclass Slow:\n    def __reduce__(self):\n        time.sleep(20)\n"
        "        return int, (5,)\nslow, other = Slow(), 4"
    )
    threading.Timer(0.5, shared_notebook.interrupt).start()
    error = shared_notebook.run("%distributed slow, other", fails=True).error
    assert error == "KeyboardInterrupt: stopped before the cell began on the ranks"
    shared_notebook.run("slow = 1")
    assert shared_notebook.run("%distributed slow, other").lines == ["[0-1] (1, 4)"]


def test_stop_ends_a_launched_function_and_its_ranks(shared_notebook):
    ranks = len(shared_notebook.processes())
    shared_notebook.run("import accelnb, time")
    threading.Timer(1.0, shared_notebook.interrupt).start()
    error = shared_notebook.run("accelnb.launch(time.sleep, 60, procs=2)", fails=True).error
    assert error.startswith("KeyboardInterrupt: stopped; the ranks of this call have ended")
    assert len(shared_notebook.processes()) == ranks


def test_stop_twice_does_not_wait_for_the_ranks_and_the_next_cell_runs(shared_notebook):
    for seconds in (0.5, 0.8):
        threading.Timer(seconds, shared_notebook.interrupt).start()
    stubborn = "while True:\n    try: time.sleep(60)\n    except KeyboardInterrupt: pass"
    output = shared_notebook.run(f"%%distributed\nimport time\n{stubborn}", fails=True)
    assert output.error == "KeyboardInterrupt: the ranks are still being stopped"
    assert output.seconds < 1.8  # they are killed after 2.2
    assert shared_notebook.run("%distributed rank").lines == ["[0] 0", "[1] 1"]
