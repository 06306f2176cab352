"""The link to the ranks is private: keys, sockets and files are for this notebook alone."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

SESSION = """
from accelnb.notebook.extension import session_of
group = session_of(get_ipython()).group
"""
MARKER = "pickle-was-loaded"


def everyone(notebook) -> list[psutil.Process]:
    return [psutil.Process(notebook.pid), *notebook.processes()]


def folder_of(notebook, what: str = "folder") -> Path:
    notebook.run(SESSION)
    return Path(eval(notebook.run(f"str(group._launched._server.{what})").value))


def test_the_key_is_in_no_command_line_environment_or_file(shared_notebook):
    shared_notebook.run("%%distributed\nprint('a line for the log')")
    folder = folder_of(shared_notebook)
    key = bytes.fromhex(eval(shared_notebook.run("group._key.hex()").value))
    forms = (key, key.hex().encode())
    for process in everyone(shared_notebook):
        for name in ("cmdline", "environ"):
            content = Path(f"/proc/{process.pid}/{name}").read_bytes()
            assert not any(form in content for form in forms)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    assert not any(form in path.read_bytes() for path in files for form in forms)


def test_the_folders_of_sockets_and_logs_are_for_this_user_only(shared_notebook):
    shared_notebook.run("%%distributed\nprint('a line for the log')")
    for folder in (folder_of(shared_notebook), folder_of(shared_notebook, "sockets")):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert folder.stat().st_uid == os.getuid()
    assert any(path.is_socket() for path in folder.iterdir())


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_another_user_cannot_connect(shared_notebook):
    folder = folder_of(shared_notebook, "sockets")
    (path,) = (path for path in folder.iterdir() if path.is_socket())
    code = (
        "import os, socket\nos.setgid(65534); os.setuid(65534)\n"
        f"try:\n    socket.socket(socket.AF_UNIX).connect({str(path)!r})\n"
        "except PermissionError: print('refused')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout == "refused\n", done.stderr


def test_no_port_is_open_to_other_machines(shared_notebook):
    kernel, *below = everyone(shared_notebook)
    for process in below:
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip in ("127.0.0.1", "::1"), process.cmdline()
    assert kernel.is_running()


@pytest.mark.parametrize("identity", ["0.9", "stranger"])
def test_a_message_of_a_stranger_is_dropped_unread_and_the_cell_goes_on(
    shared_notebook, tmp_path, identity
):
    marker = tmp_path / MARKER
    run = shared_notebook.run
    run(SESSION)
    run("%%distributed --detach --out run\nimport time\ntime.sleep(1.5)\nrank")
    run(
        f"""
import pathlib, pickle, zmq
from accelnb.engine.wire.messages import Link
class Trap:
    def __reduce__(self): return pathlib.Path.touch, (pathlib.Path({str(marker)!r}),)
stranger = Link.dial(group._address, b"guess" * 8, {identity!r}.encode())
for kind in ("streamed", "execute_reply", "stream"):
    stranger.send(kind, {{"status": "ok", "dropped": 0}}, buffers=[pickle.dumps(Trap())])
raw = zmq.Context.instance().socket(zmq.DEALER)
raw.connect(group._address)
raw.send_multipart([b"<IDS|MSG>", b"", b"{{}}", b"{{}}", b"{{}}", b"{{}}", pickle.dumps(Trap())])
raw.send(b"nonsense")
"""
    )
    assert run("list(run.result)").value == "[0, 1]"
    assert not marker.exists()
    run("stranger.close(); raw.close(0)")
    assert run("%distributed rank").lines == ["[0] 0", "[1] 1"]
