"""A real Slurm: one controller and two nodes, all on this machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import wait_until

from accelnb.export.launcher_files import slurm_text
from accelnb.options.config import LaunchConfig

_LIMIT = 60  # s
_PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "sinfo", "munged")
_CONF = """\
ClusterName=accelnb
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus} State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=10 State=UP
"""

TRAIN = """\
import os, sys, torch, torch.distributed as dist
dist.init_process_group("gloo")
ones = torch.ones(1)
dist.all_reduce(ones)
node = os.environ["SLURMD_NODENAME"]
print(f"sum {int(ones)} on {node}, rank {dist.get_rank()}, {sys.argv[1:]}\\n", end="", flush=True)
dist.destroy_process_group()
"""


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Slurm:
    """A controller and two nodes with a configuration, a key and a state of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "state").mkdir()
        conf = folder / "slurm.conf"
        cpus = os.cpu_count()
        host = socket.gethostname().partition(".")[0]
        conf.write_text(_CONF.format(host=host, folder=folder, ports=_free_ports(3), cpus=cpus))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.env = os.environ | {"SLURM_CONF": str(conf), "PATH": path}
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        names = {"key": "key-file", "socket": "socket", "pid": "pid-file", "seed": "seed-file"}
        files = [f"--{option}={self.folder}/munge.{end}" for end, option in names.items()]
        self._spawn(
            "munged", "--force", "--foreground", *files, f"--log-file={self.folder}/munge.log"
        )
        assert wait_until((self.folder / "munge.socket").exists, 20), self.logs()
        self._spawn("slurmctld", "-D", "-c")
        for node in ("n1", "n2"):
            self._spawn("slurmd", "-D", "-N", node)
        assert wait_until(lambda: self.nodes() == ["idle", "idle"], 40), self.logs()

    def _spawn(self, *command: str) -> None:
        program = shutil.which(command[0], path="/usr/sbin:" + self.env["PATH"]) or command[0]
        process = subprocess.Popen(
            [program, *command[1:]],
            env=self.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._running.append(process)

    def nodes(self) -> list[str]:
        done = self.run("sinfo", "--noheader", "--Node", "--format=%T", cwd=self.folder)
        return done.stdout.split()

    def state_at_end(self, job: str) -> str:
        state = ""
        end = time.monotonic() + _LIMIT
        while time.monotonic() < end:
            told = self.run("scontrol", "--oneliner", "show", "job", job, cwd=self.folder).stdout
            state = told.partition("JobState=")[2].partition(" ")[0]
            if state not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING"):
                break
            time.sleep(0.3)
        return state

    def run(self, *command: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=cwd, env=self.env | env, capture_output=True, text=True, timeout=_LIMIT
        )

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in self.folder.glob("*.log"))

    def stop(self) -> None:
        self.run("scancel", "--user=root", cwd=self.folder)
        for process in reversed(self._running):
            process.send_signal(signal.SIGTERM)
        for process in self._running:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(timeout=10)


def _refusal() -> str:
    if os.name != "posix" or os.geteuid() != 0:
        return "needs root, as Slurm's nodes do"
    path = f"/usr/sbin:{os.environ['PATH']}"
    if missing := [name for name in _PROGRAMS if shutil.which(name, path=path) is None]:
        packages = "Debian packages slurmctld, slurmd, slurm-client, munge"
        return f"needs {', '.join(missing)} ({packages})"
    return ""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A cluster that is ready for jobs."""
    if refusal := _refusal():
        if os.environ.get("ACCELNB_REQUIRE_SYSTEM_TESTS"):
            pytest.fail(f"{refusal}, and ACCELNB_REQUIRE_SYSTEM_TESTS is set")
        pytest.skip(refusal)
    slurm = Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()


def test_the_exported_sbatch_file_runs_as_it_is_on_two_nodes(slurm, tmp_path):
    (tmp_path / "train.py").write_text(TRAIN)
    text = slurm_text(tmp_path / "train.py", LaunchConfig(procs=1, device="cpu"))
    (tmp_path / "train.sbatch").write_text(text)
    # The names n1 and n2 are no hosts here: both are this machine.
    command = ("sbatch", "--nodes=2", "--parsable", "train.sbatch", "--lr", "0.1")
    done = slurm.run(*command, cwd=tmp_path, HEAD_NODE="127.0.0.1")
    assert done.returncode == 0, done.stderr
    job = done.stdout.strip()
    assert slurm.state_at_end(job) == "COMPLETED", slurm.logs()
    log = tmp_path / f"train-{job}.log"
    lines = [line for line in log.read_text().splitlines() if line.startswith("sum")]
    assert {line.partition(",")[0] for line in lines} == {"sum 2 on n1", "sum 2 on n2"}
    assert all("['--lr', '0.1']" in line for line in lines)


def test_processes_that_srun_started_run_the_script_in_place(slurm, tmp_path):
    (tmp_path / "train.py").write_text(TRAIN)
    launch = (sys.executable, "-m", "accelnb", "launch", "train.py", "--lr", "0.1")
    here = {"MASTER_ADDR": socket.gethostname(), "GLOO_SOCKET_IFNAME": "lo"}
    done = slurm.run("srun", "--nodes=2", "--ntasks=2", *launch, cwd=tmp_path, **here)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n")[:-1]) == [
        "sum 2 on n1, rank 0, ['--lr', '0.1']",
        "sum 2 on n2, rank 1, ['--lr', '0.1']",
    ]
