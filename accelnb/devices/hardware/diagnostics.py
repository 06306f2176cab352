"""What is wrong with a machine, each in one line with what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from accelnb.devices.hardware import tpu
from accelnb.devices.hardware.nvidia import Nvidia
from accelnb.devices.hardware.probe import Hardware, nvidia_files
from accelnb.devices.hardware.torch_build import TorchBuild
from accelnb.devices.hardware.usable_resources import Limits, entries
from accelnb.devices.memory_size import rounded_size

_SMALL_SHM = 256 << 20  # docker gives 64 MiB


def notes(
    root: Path,
    environ: Mapping[str, str],
    build: TorchBuild | None,
    answer: Nvidia,
    hardware: Hardware,
    room: Limits,
) -> Iterator[str]:
    """Yield what is wrong."""
    yield from hardware.unusable.values()
    if build is None and not hardware.unusable:
        yield "torch is not installed: pip install torch"
    if answer.problem and nvidia_files(root, entries(root / "dev")):
        yield answer.problem
    yield from _of_driver(build, answer)
    yield from _of_numbering(environ, answer)
    chips = tpu.count(root, environ, entries(root / "dev"))
    if hardware.count("xla") and chips and (cores := tpu.cores_per_chip(root, environ)) > 1:
        yield (
            f"a chip of {tpu.name(root, environ)} has {cores} cores, which one process has to "
            f"drive: use --procs 1, a rank that trains on all {chips * cores} cores"
        )
    if tpu.is_remote(environ):
        yield "the TPU is on another host, which PyTorch no longer supports: choose a TPU VM"
    if room.shm_total is not None and room.shm_total < _SMALL_SHM:
        yield (
            f"/dev/shm has {rounded_size(room.shm_total)}, too little for DataLoader workers: "
            "start the container with --shm-size=8g or --ipc=host"
        )


def _of_driver(build: TorchBuild | None, answer: Nvidia) -> Iterator[str]:
    if answer.driver and not answer.gpus:
        yield f"the NVIDIA driver {answer.driver} is loaded, but there is no GPU for it"
    if build is None or build.cuda is None or answer.cuda is None or not answer.gpus:
        return
    needed, offered = (int(version.partition(".")[0]) for version in (build.cuda, answer.cuda))
    if needed > offered:
        yield (
            f"torch needs CUDA {build.cuda}, but the NVIDIA driver {answer.driver} goes up to "
            f"{answer.cuda}: update the driver, or install a torch for CUDA {offered}"
        )


def _of_numbering(environ: Mapping[str, str], answer: Nvidia) -> Iterator[str]:
    if any(gpu.instances for gpu in answer.gpus):
        yield (
            "a GPU is split (MIG): CUDA gives a process one instance, the first unless "
            "CUDA_VISIBLE_DEVICES=MIG-... names another, so use --procs 1"
        )
    by_pci = environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    if not by_pci and len({gpu.name for gpu in answer.gpus}) > 1:
        yield (
            "the GPUs differ, and CUDA numbers the fastest first: set "
            "CUDA_DEVICE_ORDER=PCI_BUS_ID for the numbers of nvidia-smi, as shown here"
        )
