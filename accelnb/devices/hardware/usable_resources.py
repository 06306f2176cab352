"""What of the machine's processors and memory this process may use: cgroups, affinity, limits."""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

_NO_LIMIT = 1 << 60  # cgroup v1 writes "no limit" as a number near 2**63


class Memory(NamedTuple):
    """Bytes of memory: what this process may use, what is free of it, what the machine has."""

    total: int
    free: int
    present: int


class Limits(NamedTuple):
    """Of the process; None where the system has no such thing."""

    shm_total: int | None
    shm_free: int | None
    open_files: int | None


@functools.cache
def usable_cpus(root: str = "/") -> int:
    """Return how many processors this process can keep busy.

    A container's share counts: 2 of 64 is 2.

    Examples
    --------
    >>> from accelnb.devices.hardware.usable_resources import usable_cpus
    >>> usable_cpus() >= 1
    True
    """
    share = cpu_share(Path(root))
    return min(allowed_cpus(Path(root)), math.ceil(share) if share else sys.maxsize)


def allowed_cpus(root: Path) -> int:
    """Return how many processors this process may run on (affinity, cpuset)."""
    for line in read(root / "proc/self/status").splitlines():
        if line.startswith("Cpus_allowed_list:"):
            return _count_of_list(line.partition(":")[2])
    return present_cpus(root)


def present_cpus(root: Path) -> int:
    """Return how many processors the machine has."""
    listed = read(root / "sys/devices/system/cpu/present")
    return _count_of_list(listed) if listed else os.cpu_count() or 1


def physical_cores(root: Path) -> int:
    """Return on how many cores this process may run, each of which may be several processors."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(0)
    folder = root / "sys/devices/system/cpu"
    siblings = {read(folder / f"cpu{cpu}/topology/thread_siblings_list") for cpu in allowed}
    return len(siblings - {""}) or allowed_cpus(root)


def cpu_share(root: Path) -> float | None:
    """Return how many processors' time the cgroup allows, None if it does not limit it."""
    shares = []
    for folder in _cgroup_folders(root, "cpu"):
        quota, _, period = read(folder / "cpu.max").partition(" ")  # v2: "200000 100000"
        if not quota:
            quota, period = read(folder / "cpu.cfs_quota_us"), read(folder / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal():  # "max" and -1: no limit
            shares.append(int(quota) / int(period))
    return min(shares, default=None)


def memory(root: Path) -> Memory:
    """Return the memory that this process may use."""
    fields = dict(line.split(":", 1) for line in read(root / "proc/meminfo").splitlines())
    present = _kib(fields.get("MemTotal")) or _memory_of_sysconf()
    free = _kib(fields.get("MemAvailable")) or present
    total = present
    for folder in _cgroup_folders(root, "memory"):
        limit = _number(folder, "memory.max", "memory.limit_in_bytes")
        if limit is None or limit >= min(total, _NO_LIMIT):
            continue
        used = _number(folder, "memory.current", "memory.usage_in_bytes") or 0
        total, free = limit, min(free, limit - max(0, used - _reclaimable(folder)))
    return Memory(total, max(0, free), present)


def limits(root: Path) -> Limits:
    """Return the limits that distributed training runs into."""
    shm_total = shm_free = open_files = None
    shm = root / "dev/shm"
    if shm.is_dir() and hasattr(os, "statvfs"):
        state = os.statvfs(shm)
        shm_total, shm_free = state.f_blocks * state.f_frsize, state.f_bavail * state.f_frsize
    if sys.platform != "win32":
        import resource

        open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return Limits(shm_total, shm_free, open_files)


def read(path: Path) -> str:
    """Return a small file's text, nothing if it is not there or not for us."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def entries(folder: Path) -> list[str]:
    """Return the names in a folder, none if there is no such folder."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def numbered(names: Iterable[str], stem: str) -> int:
    """Count the names that are `stem` and a number, such as nvidia0."""
    end = len(stem)
    return sum(name[end:].isdecimal() for name in names if name.startswith(stem))


def _cgroup_folders(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folder of this process's cgroup and those above it, for v2 and for v1.

    In a container the path may be that on the host: folders that are not there are passed over.
    """
    base = root / "sys/fs/cgroup"
    for line in read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        top = base / controllers if controllers else base
        if controllers and not top.is_dir():
            top = base / controller
        folder = top / path.lstrip("/")
        while True:
            if folder.is_dir():
                yield folder
            if folder == top or top not in folder.parents:
                break
            folder = folder.parent


def _number(folder: Path, *names: str) -> int | None:
    for name in names:
        if (text := read(folder / name)).isdecimal():
            return int(text)
    return None


def _reclaimable(folder: Path) -> int:
    """Return the bytes of file cache that the system gives up first."""
    for line in read(folder / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0


def _count_of_list(listed: str) -> int:
    """Count ``0-3,8`` as 5."""
    ranges = (part.partition("-") for part in listed.strip().split(","))
    return sum(int(last or first) - int(first) + 1 for first, _, last in ranges)


def _kib(text: str | None) -> int:
    return int(text.split()[0]) * 1024 if text else 0


def _memory_of_sysconf() -> int:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return 0
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
