"""Ranks are forked only from a server that has not begun to use a device."""

from __future__ import annotations

from accelnb.engine.group import WorkerGroup
from accelnb.engine.launchers import local
from accelnb.engine.run import Run
from accelnb.options.config import LaunchConfig
from accelnb.worker import preload


def test_a_library_that_begins_to_use_a_device_is_named_and_ranks_are_fresh_processes(
    tmp_path, monkeypatch
):
    (tmp_path / "begins.py").write_text("import torch\ntorch.cuda._initialized = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    server = local.ForkServer(["torch", "begins", *local.modules_to_preload()])
    monkeypatch.setattr(local, "_server", server)
    try:
        group = WorkerGroup(LaunchConfig(procs=1, device="cpu", start="fork"))
        run = on_rank_0(group, "import torch; torch.cuda.is_initialized()")
        assert list(run.result) == [False]
        said = "begins began to use a device in the fork server (torch.cuda is initialized)"
        assert said in run.logs(0, "stderr")
        group.shutdown()
    finally:
        server.close()


def test_what_another_library_began_shows_in_the_open_files(tmp_path, monkeypatch):
    file = tmp_path / "nvidia-uvm"
    monkeypatch.setattr(preload, "_OPEN_FILES", (str(file),))
    with file.open("w"):
        assert preload.device_in_use() == f"{file} is open"
    assert preload.device_in_use() is None


def on_rank_0(group: WorkerGroup, code: str) -> Run:
    cell = {"code": code, "source": code, "name": "<cell>", "number": 1}
    run = group.run("execute_request", {0: ({"cell": cell, "result": True}, [])})
    assert run.wait(60)
    return run
