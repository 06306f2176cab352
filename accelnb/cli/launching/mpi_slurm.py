"""Processes that mpirun or srun started: which of them this one is."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from accelnb.errors import AccelnbError

_LOOPBACK = "127.0.0.1"
# Who starts them, and the variables: rank, number, rank on this node, number on this node.
_BY_MPI = (
    ("Open MPI", "OMPI_COMM_WORLD_{}", ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")),
    ("MVAPICH", "MV2_COMM_WORLD_{}", ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")),
    ("MPICH", "{}", ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")),
)
# What all processes of one mpirun have in common, by which they agree on a port.
_JOB_OF_MPI = ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "PMI_ID_KVSNAME", "PMI_JOBID")


@dataclass(frozen=True)
class Started:
    """This process's place among those that another launcher started.

    Attributes
    ----------
    by : str
        Who started it, for messages.
    local_rank, local_size : int
        Among those of this machine.
    node, nodes : int
        Which machine this is, of how many.
    main_host : str or None
        Rank 0's machine, if it is known.
    port : int
        Where rank 0 listens, unless MASTER_PORT says otherwise.
    """

    by: str
    rank: int
    size: int
    local_rank: int
    local_size: int
    node: int
    nodes: int
    main_host: str | None
    port: int

    def variables(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the variables that torchrun would set for this process.

        Raises
        ------
        AccelnbError
            There are several machines, and nothing says where rank 0 is.
        """
        host = environ.get("MASTER_ADDR") or self.main_host
        if host is None:
            raise AccelnbError(
                f"{self.by} started {self.size} processes on {self.nodes} machines, but "
                "MASTER_ADDR is not set: set it to the name of rank 0's machine "
                "(mpirun -x MASTER_ADDR=...)"
            )
        numbers = {
            "RANK": self.rank,
            "WORLD_SIZE": self.size,
            "LOCAL_RANK": self.local_rank,
            "LOCAL_WORLD_SIZE": self.local_size,
            "GROUP_RANK": self.node,
            "GROUP_WORLD_SIZE": self.nodes,
            "ROLE_RANK": self.rank,
            "ROLE_WORLD_SIZE": self.size,
            "MASTER_PORT": environ.get("MASTER_PORT") or self.port,
        }
        named = {name: str(number) for name, number in numbers.items()}
        return named | {"MASTER_ADDR": host, "ROLE_NAME": "default"}


def started(environ: Mapping[str, str], parent: int) -> Started | None:
    """Return this process's place among those that mpirun or srun started, None if they did not.

    Parameters
    ----------
    parent
        The process that started this one; those of one machine have it in common.

    Examples
    --------
    >>> from accelnb.cli.launching.mpi_slurm import started
    >>> of_rank_1 = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}
    >>> started(of_rank_1, parent=1).variables({})["LOCAL_RANK"]
    '1'
    """
    of_slurm = _by_srun(environ)
    for name, form, fields in _BY_MPI:
        if name == "MPICH" and of_slurm:
            break  # srun speaks to MPI programs by the same variables
        if place := _by_mpirun(environ, parent, name, [form.format(field) for field in fields]):
            return place
    return of_slurm


def _by_mpirun(
    environ: Mapping[str, str], parent: int, by: str, names: list[str]
) -> Started | None:
    rank, size, local_rank, local_size = (_number(environ, name) for name in names)
    if rank is None or size is None:
        return None
    local_size = local_size or size
    nodes = -(-size // local_size)
    local_rank = rank % local_size if local_rank is None else local_rank
    job = next((environ[name] for name in _JOB_OF_MPI if name in environ), str(parent))
    host = _LOOPBACK if nodes == 1 else None
    node = rank // local_size
    return Started(by, rank, size, local_rank, local_size, node, nodes, host, _port(job))


def _by_srun(environ: Mapping[str, str]) -> Started | None:
    """A batch script has these variables too, but it is no step of several tasks."""
    rank, local_rank, node = (
        _number(environ, f"SLURM_{name}") for name in ("PROCID", "LOCALID", "NODEID")
    )
    size = _number(environ, "SLURM_STEP_NUM_TASKS")
    if rank is None or size is None or size < 2 or "SLURM_STEP_ID" not in environ:
        return None
    each = list(_tasks_of_nodes(environ.get("SLURM_STEP_TASKS_PER_NODE", str(size))))
    node = min(node or 0, len(each) - 1)
    hosts = host_names(environ.get("SLURM_STEP_NODELIST", ""))
    job = f"{environ.get('SLURM_JOB_ID')}.{environ['SLURM_STEP_ID']}"
    host = _LOOPBACK if len(each) == 1 else hosts[0] if hosts else None
    place = local_rank if local_rank is not None else rank
    return Started("Slurm", rank, size, place, each[node], node, len(each), host, _port(job))


def _tasks_of_nodes(text: str) -> Iterator[int]:
    """Read ``2(x3),1``: three nodes have two tasks each, one has one."""
    for tasks, repeated in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        yield from [int(tasks)] * int(repeated or 1)


def host_names(text: str) -> list[str]:
    """Return the names that a node list of Slurm stands for.

    Examples
    --------
    >>> from accelnb.cli.launching.mpi_slurm import host_names
    >>> host_names("gpu[08-10,12],login")
    ['gpu08', 'gpu09', 'gpu10', 'gpu12', 'login']
    """
    names: list[str] = []
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        found = re.fullmatch(r"(.*?)\[([^\]]*)\](.*)", part)
        if found is None:
            names.append(part)
            continue
        head, numbers, tail = found.groups()
        for one in numbers.split(","):
            first, _, last = one.partition("-")
            for number in range(int(first), int(last or first) + 1):
                names += host_names(f"{head}{number:0{len(first)}}{tail}")
    return names


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "")
    return int(text) if text.isdigit() else None


def _port(job: str) -> int:
    """Return a port that all processes of a job find, below those that the system hands out."""
    return 20000 + zlib.crc32(job.encode()) % 12000
