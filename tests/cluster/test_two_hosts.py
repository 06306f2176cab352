"""`accelnb launch --nnodes 2` on two machines: network namespaces with a cable between them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from harness import wait_until

_LIMIT = 60  # s
_ENDPOINT = ("--nnodes", "2", "--nproc-per-node", "1", "--rdzv-endpoint", "10.77.0.1:29417")

ALL_REDUCE = """\
import os, socket, torch, torch.distributed as dist
dist.init_process_group("gloo")
ones = torch.ones(1)
dist.all_reduce(ones)
print("sum", int(ones), "on", socket.gethostname(), "by", os.environ["MASTER_ADDR"], flush=True)
dist.destroy_process_group()
"""

# The first start waits for a death; the one after it finds the mark that this left, and ends.
UNTIL_KILLED = """\
import os, pathlib, time, torch, torch.distributed as dist
dist.init_process_group("gloo")
rank, attempt = dist.get_rank(), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
mark = pathlib.Path(__file__).with_name("begun")
again = mark.exists()
dist.barrier()
pathlib.Path(__file__).with_name(f"pid-{rank}").write_text(str(os.getpid()))
mark.touch()
ones = torch.ones(1)
for step in range(2 if again else 10**6):
    dist.all_reduce(ones)
    ones.fill_(1)
    time.sleep(0.05)
dist.all_reduce(ones)
print("finished with", int(ones), flush=True)
dist.destroy_process_group()
"""


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"


@dataclass
class Machine:
    """A network namespace with a host name of its own."""

    name: str
    address: str
    loopback: bool  # whether its own name means 127.0.1.1, as Debian installs it
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def launch(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "accelnb", "launch", *arguments]
        inside = ["ip", "netns", "exec", self.name, "unshare", "--uts", "sh", "-c"]
        process = subprocess.Popen(
            [*inside, f'hostname {self.name}; exec "$@"', "sh", *command],
            env=os.environ | {"OMP_NUM_THREADS": "1"} | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.running.append(process)
        return process

    def __enter__(self) -> Machine:
        other = {"10.77.0.1": "10.77.0.2 accelnb-b", "10.77.0.2": "10.77.0.1 accelnb-a"}
        own = "127.0.1.1" if self.loopback else self.address
        folder = Path("/etc/netns", self.name)
        folder.mkdir(parents=True, exist_ok=True)
        hosts = f"127.0.0.1 localhost\n{own} {self.name}\n{other[self.address]}\n"
        (folder / "hosts").write_text(hosts)
        (folder / "nsswitch.conf").write_text("hosts: files\n")  # there is no name server
        _run("ip", "netns", "add", self.name)
        _run("ip", "-n", self.name, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=20)
        subprocess.run(["ip", "netns", "delete", self.name], capture_output=True, timeout=20)
        shutil.rmtree(Path("/etc/netns", self.name), ignore_errors=True)


def _connected(one: Machine, other: Machine) -> None:
    ends = ("accnb-a", "accnb-b")
    _run("ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
    for machine, end in zip((one, other), ends, strict=True):
        _run("ip", "link", "set", end, "netns", machine.name)
        _run("ip", "-n", machine.name, "link", "set", end, "name", "eth0")
        _run("ip", "-n", machine.name, "address", "add", f"{machine.address}/24", "dev", "eth0")
        _run("ip", "-n", machine.name, "link", "set", "eth0", "up")


def _refusal() -> str:
    if os.name != "posix" or os.geteuid() != 0:
        return "needs root, for network namespaces"
    if missing := [name for name in ("ip", "unshare") if shutil.which(name) is None]:
        return f"needs {missing[0]} (Debian packages iproute2, util-linux)"
    probed = subprocess.run(["ip", "netns", "add", "accelnb-probe"], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "delete", "accelnb-probe"], capture_output=True)
    return f"no network namespaces here: {probed.stderr.strip()}" if probed.returncode else ""


def _machines(loopback: bool) -> Iterator[tuple[Machine, Machine]]:
    if refusal := _refusal():
        if os.environ.get("ACCELNB_REQUIRE_SYSTEM_TESTS"):
            pytest.fail(f"{refusal}, and ACCELNB_REQUIRE_SYSTEM_TESTS is set")
        pytest.skip(refusal)
    first = Machine("accelnb-a", "10.77.0.1", loopback)
    with first, Machine("accelnb-b", "10.77.0.2", loopback) as second:
        _connected(first, second)
        yield first, second


@pytest.fixture
def machines() -> Iterator[tuple[Machine, Machine]]:
    """Two machines whose own names are their addresses."""
    yield from _machines(loopback=False)


@pytest.fixture
def debian_machines() -> Iterator[tuple[Machine, Machine]]:
    """Two machines whose own names resolve to 127.0.1.1."""
    yield from _machines(loopback=True)


def _ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=_LIMIT)
    return process.returncode, stdout, stderr


def test_a_machine_whose_name_means_loopback_is_told_so_and_put_right(debian_machines, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(ALL_REDUCE)
    launched = [machine.launch(*_ENDPOINT, str(script)) for machine in debian_machines]
    for machine, process in zip(debian_machines, launched, strict=True):
        code, stdout, stderr = _ended(process)
        assert code == 0, stderr
        assert stdout == f"sum 2 on {machine.name} by 10.77.0.1\n"
        (line,) = stderr.splitlines()
        assert f"{machine.name} resolves to 127.0.1.1" in line
        assert f"using eth0 ({machine.address})" in line


def test_a_machine_that_was_killed_comes_back_and_the_training_goes_on(machines, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(UNTIL_KILLED)
    soon = "keep_alive_interval=1,keep_alive_max_attempt=2,heartbeat_timeout=4,join_timeout=50"
    options = (*_ENDPOINT, "--max-restarts", "3", "--rdzv-conf", soon, str(script))
    first, second = machines[0].launch(*options), machines[1].launch(*options)
    pids = [tmp_path / "pid-0", tmp_path / "pid-1"]
    assert wait_until(lambda: all(pid.exists() for pid in pids), _LIMIT)
    os.killpg(second.pid, signal.SIGKILL)  # the power fails: launcher and ranks at once
    second.communicate(timeout=_LIMIT)
    back = machines[1].launch(*options)
    for process in (back, first):
        code, stdout, stderr = _ended(process)
        assert code == 0, stderr
        assert "finished with 2" in stdout
