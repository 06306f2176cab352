"""The environment in which torch_xla finds its TPU as a rank, or a group of ranks, is to use it.

Hosts set some of it for one process that drives all chips: Colab, Kaggle and TPU VMs do. torch_xla
overwrites none of that, so that each of several processes would take the whole host for its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from accelnb.devices.hardware import tpu

# What says where a process is among others, by the name that says so of the host.
_OF_PROCESS = {
    "TPU_PROCESS_BOUNDS": "TPU_HOST_BOUNDS",
    "TPU_CHIPS_PER_PROCESS_BOUNDS": "TPU_CHIPS_PER_HOST_BOUNDS",
    "CLOUD_TPU_TASK_ID": "TPU_WORKER_ID",
}
_ADDRESSES = ("TPU_PROCESS_ADDRESSES", "TPU_PROCESS_PORT", "TPU_VISIBLE_CHIPS")
_WHOLE_HOST = {  # 4 chips, as hosts with two cores on a chip have
    "TPU_VISIBLE_CHIPS": "0,1,2,3",
    "TPU_CHIPS_PER_PROCESS_BOUNDS": "2,2,1",
    "TPU_PROCESS_BOUNDS": "1,1,1",
}


def for_one_process(root: Path, environ: Mapping[str, str]) -> dict[str, str] | None:
    """Return what to set so that a single rank has several devices; None if it has one.

    Examples
    --------
    >>> from pathlib import Path
    >>> from accelnb.worker.xla_environment import for_one_process
    >>> for_one_process(Path("/"), {"PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": "4"})
    {}
    >>> for_one_process(Path("/"), {"PJRT_DEVICE": "CPU"}) is None
    True
    """
    if tpu.stands_in(environ):
        return {} if environ.get("CPU_NUM_DEVICES", "1") != "1" else None
    if tpu.cores_per_chip(root, environ) == 1:
        return None
    return {name: value for name, value in _WHOLE_HOST.items() if name not in environ}


def for_several_processes(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` with nothing in it that says how one process drives the whole host.

    Examples
    --------
    >>> from accelnb.worker.xla_environment import for_several_processes
    >>> for_several_processes({"TPU_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_ADDRESSES": "local"})
    {'TPU_HOST_BOUNDS': '1,1,1'}
    """
    own = (*_OF_PROCESS, *_ADDRESSES)
    kept = {name: value for name, value in environ.items() if name not in own}
    for name, of_host in _OF_PROCESS.items():
        if name in environ:
            kept.setdefault(of_host, environ[name])
    return kept
