"""Cells on two nodes of a real Ray cluster do what they do on this machine."""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Iterator

import psutil
import pytest
from harness import Notebook, Output, wait_until
from ray_nodes import SETTINGS, RayCluster

pytestmark = [pytest.mark.alone, pytest.mark.timeout(240)]

START = 150.0


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[RayCluster]:
    """A real cluster of three nodes; skipped where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        if os.environ.get("ACCELNB_REQUIRE_SYSTEM_TESTS"):
            pytest.fail("Ray is not installed, and ACCELNB_REQUIRE_SYSTEM_TESTS is set")
        pytest.skip("Ray is not installed")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        cluster = RayCluster()
        patch.setenv("RAY_ADDRESS", cluster.address)
        try:
            yield cluster
        finally:
            cluster.close()


@pytest.fixture(scope="module")
def notebook(ray_cluster, tmp_path_factory):
    """A kernel outside the cluster, with two ranks on each of two nodes."""
    notebook = Notebook(tmp_path_factory.mktemp("notebook"))
    try:
        notebook.load()
        output = notebook.run(
            f"%%distributed --cluster {ray_cluster.url} --nodes 2 --procs 2 --device cpu\n"
            "import torch, torch.distributed as dist\nkept = rank",
            timeout=START,
        )
        assert f"starting 4 ranks on 2 nodes of the cluster {ray_cluster.url}" in output.stderr
        yield notebook
    finally:
        notebook.close()


def pids(notebook: Notebook) -> list[int]:
    notebook.run("%%distributed --out pids\nimport os\nos.getpid()")
    return eval(notebook.run("list(pids)").value)


def raylet(rank: int) -> int:
    """Return the pid of the raylet that a rank's actor and fork server belong to."""
    return psutil.Process(rank).parents()[2].pid


def test_ranks_have_the_environment_of_their_node_and_form_one_group(notebook):
    lines = notebook.run(
        "%%distributed\nimport os\ntotal = torch.ones(1); dist.all_reduce(total)\n"
        "names = ['RANK', 'LOCAL_RANK', 'GROUP_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE']\n"
        "[os.environ[name] for name in names], local_rank, total.item()"
    ).lines
    assert sorted(lines) == [
        "[0] (['0', '0', '0', '4', '2'], 0, 4.0)",
        "[1] (['1', '1', '0', '4', '2'], 1, 4.0)",
        "[2] (['2', '0', '1', '4', '2'], 0, 4.0)",
        "[3] (['3', '1', '1', '4', '2'], 1, 4.0)",
    ]
    assert len({raylet(pid) for pid in pids(notebook)}) == 2
    assert notebook.run("%%distributed\nprint('same')").lines == ["[0-3] same"]


def test_values_travel_there_and_back_to_the_bit(notebook):
    notebook.run("import torch\nbig = torch.randn(1 << 20)\nlearning_rate = 0.1")
    notebook.run("%%distributed --out back --pull big\nbig.mul_(2); big + rank * learning_rate")
    assert notebook.run("[bool((back[r] == big[r] + r * 0.1).all()) for r in range(4)]").value == (
        "[True, True, True, True]"
    )
    notebook.run("back[1][0] = 5.0")  # what came back is the notebook's own
    notebook.run("import os\nos.environ['MY_SETTING'] = 'new'")
    assert notebook.run("%distributed __import__('os').environ['MY_SETTING']").lines == [
        "[0-3] 'new'"
    ]


def test_an_error_names_rank_and_line_and_what_the_others_did(notebook):
    error = notebook.run(
        "%%distributed\nif rank == 2:\n    raise ValueError('mine')\ndist.barrier()", fails=True
    ).error
    assert "RankError: rank 2: ValueError: mine (Cell In[" in error
    assert "], line 3)" in error
    assert "ranks 0-1, 3 stopped at" in error


def test_stop_ends_ranks_that_sleep_and_ranks_in_a_collective(notebook):
    stop = threading.Timer(2, notebook.interrupt)
    stop.start()
    output = notebook.run(
        "%%distributed\nimport time\nif rank:\n    dist.barrier()\ntime.sleep(60)", fails=True
    )
    assert "stopped ranks 0-3; variables are kept" in output.error
    assert "rank 0 stopped at" in output.error
    assert "(in barrier)" in output.error
    assert sorted(notebook.run("%distributed kept").lines) == [f"[{r}] {r}" for r in range(4)]


def test_new_ranks_start_in_the_places_of_the_old_and_what_has_no_room_ends_none(notebook):
    servers = [psutil.Process(pid).ppid() for pid in pids(notebook)]
    notebook.run("%distributed --fresh kept = ('kept' not in globals()) and rank")
    new = pids(notebook)
    assert [psutil.Process(pid).ppid() for pid in new] == servers
    error = notebook.run("%distributed --procs 3 1", fails=True).error
    assert "AccelnbError: the cluster has no room for 2 nodes with 3 CPUs each: there" in error
    assert pids(notebook) == new
    assert sorted(notebook.run("%distributed kept").lines) == [f"[{r}] {r}" for r in range(4)]


def test_a_stranger_cannot_connect(notebook):
    said = notebook.run(
        """
import zmq
from accelnb.engine.wire.encryption import Curve
from accelnb.notebook.extension import session_of
group = session_of(get_ipython()).group
from zmq.utils.monitor import recv_monitor_message
notebooks = group._launched._curve
found = []
for keys in (None, Curve(*[k.decode() for k in zmq.curve_keypair()], notebooks.public)):
    stranger = zmq.Context.instance().socket(zmq.DEALER)
    events = stranger.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
    if keys: keys.apply_to(stranger)
    stranger.connect(group._address)
    assert events.poll(5000)
    found.append(recv_monitor_message(events)["event"] != zmq.EVENT_HANDSHAKE_SUCCEEDED)
    stranger.disable_monitor(); stranger.close(0)
found
"""
    ).value
    assert said == "[True, True]"
    assert notebook.run("%distributed 1").lines == ["[0-3] 1"]


def test_a_rank_that_ends_is_named_and_replaced(notebook):
    error = notebook.run(
        "%%distributed\nimport os\nif rank == 3:\n    print('last words', flush=True)\n"
        "    os._exit(7)\ndist.barrier()",
        fails=True,
    ).error
    assert "rank 3 ended its process with exit code 7; its last output:\n  last words" in error
    output = notebook.run("%distributed kept if rank < 3 else 'new'")
    assert "rank 3 replaced: variables are lost there, kept elsewhere" in output.stderr
    assert sorted(output.lines) == ["[0] 0", "[1] 1", "[2] 2", "[3] 'new'"]


def test_a_lost_node_is_named_and_its_ranks_start_elsewhere(notebook, ray_cluster):
    nodes = ray_cluster.raylets()
    where = [raylet(pid) for pid in pids(notebook)]
    number, lost = next((n, nodes[where[2 * n]]) for n in (1, 0) if where[2 * n] in nodes)
    threading.Timer(1, ray_cluster.lose, [lost]).start()
    ranks = "2-3" if number else "0-1"
    error = notebook.run("%%distributed\nimport time\ntime.sleep(100)", fails=True).error
    assert f"RankError: ranks {ranks} were lost with node " in error
    output = notebook.run("%distributed world_size", timeout=START)
    assert output.lines == ["[0-3] 4"]
    assert f"ranks {ranks} replaced" in output.stderr


def test_launch_runs_on_the_cluster_and_a_killed_kernel_leaves_nothing(
    notebook, ray_cluster, tmp_path
):
    notebook.run("%accelnb shutdown")
    inside = "accelnb.launch(where, cluster='ray', nodes=2, procs=1, device='cpu')"
    other = Notebook(tmp_path)
    try:
        other.load()
        other.run(
            "import accelnb, threading\ndef where():\n    import os, time\n"
            "    print(os.getpid(), flush=True)\n    time.sleep(100)"
        )
        shown: list[str] = []

        def kill_when_both_run(output: Output) -> None:
            shown[:] = output.lines
            if len(shown) == 2:
                other.kill()
                raise ConnectionAbortedError  # nobody is left to answer

        with pytest.raises(ConnectionAbortedError):
            other.run(inside, timeout=START, on_output=kill_when_both_run)
        ranks = [int(line.split()[1]) for line in shown]
        assert len(ranks) == 2
        assert wait_until(lambda: not any(map(psutil.pid_exists, ranks)), 15)
    finally:
        other.close()
    notebook.run(
        f"import ray\nfrom ray.util import placement_group_table\nray.init({ray_cluster.url!r})"
    )
    groups = "[group['state'] for group in placement_group_table().values()]"
    assert wait_until(lambda: set(eval(notebook.run(groups).value)) == {"REMOVED"}, 15)
