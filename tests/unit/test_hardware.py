"""What is found on machines that are written down here as files and environments."""

from __future__ import annotations

import timeit
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from accelnb.config import ConfigError, LaunchConfig, resolve
from accelnb.hardware import TorchBuild, limits, probe
from accelnb.hardware.describe import hardware_rows
from accelnb.hardware.machine import Machine, inspect

CPU_TORCH = TorchBuild("2.13.0+cpu")
CUDA_TORCH = TorchBuild("2.13.0+cu130", cuda="13.0")
ROCM_TORCH = TorchBuild("2.13.0+rocm7.0", hip="7.0")


def machine(root: Path, files: dict[str, str]) -> Path:
    """Write a file system with these files, beside those that each Linux has."""
    usual = {
        "proc/meminfo": "MemTotal: 268435456 kB\nMemAvailable: 200000000 kB\n",
        "proc/self/status": "Name:\tpython\nCpus_allowed_list:\t0-63\n",
        "proc/cpuinfo": "processor : 0\nmodel name : Xeon 8480\nflags : avx2 amx_bf16\n\n",
        "sys/devices/system/cpu/present": "0-63",
    }
    for name, text in (usual | files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


class Driver:
    """Answers as pynvml does on a machine with these GPUs."""

    class NVMLError(Exception): ...

    class NVMLError_LibraryNotFound(NVMLError): ...

    def __init__(self, *gpus: dict[str, Any], cuda: int = 13000, missing: bool = False) -> None:
        self._gpus, self._cuda, self._missing = gpus, cuda, missing

    def nvmlInit(self) -> None:
        if self._missing:
            raise self.NVMLError_LibraryNotFound("NVML Shared Library Not Found")

    def nvmlShutdown(self) -> None: ...

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.65"

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return self._cuda

    def nvmlDeviceGetCount(self) -> int:
        return len(self._gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, Any]:
        return self._gpus[index]

    def nvmlDeviceGetName(self, gpu: dict[str, Any]) -> str:
        return gpu["name"]

    def nvmlDeviceGetUUID(self, gpu: dict[str, Any]) -> str:
        return gpu["uuid"]

    def nvmlDeviceGetCudaComputeCapability(self, gpu: dict[str, Any]) -> tuple[int, int]:
        return gpu["version"]

    def nvmlDeviceGetMemoryInfo(self, gpu: dict[str, Any]) -> Any:
        return SimpleNamespace(total=gpu["gib"] << 30, free=(gpu["gib"] - 1) << 30)

    def nvmlDeviceGetMigMode(self, gpu: dict[str, Any]) -> tuple[int, int]:
        if "mig" not in gpu:
            raise self.NVMLError("Not Supported")
        return 1, 1

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu: dict[str, Any]) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: dict[str, Any], at: int) -> dict[str, Any]:
        if at >= len(gpu["mig"]):
            raise self.NVMLError("Not Found")
        return gpu["mig"][at]


T4 = {"name": "Tesla T4", "uuid": "GPU-aa11", "version": (7, 5), "gib": 15}
H100 = {"name": "NVIDIA H100", "uuid": "GPU-bb22", "version": (9, 0), "gib": 80}
NO_GPU = Driver(missing=True)


def said(found: Machine) -> str:
    return "\n".join([*(f"{label}: {text}" for label, text in hardware_rows(found)), *found.notes])


@pytest.mark.parametrize(
    "groups",
    [
        {
            "proc/self/cgroup": "0::/",
            "sys/fs/cgroup/cpu.max": "200000 100000",
            "sys/fs/cgroup/memory.max": str(4 << 30),
            "sys/fs/cgroup/memory.current": str(3 << 30),
            "sys/fs/cgroup/memory.stat": f"anon 1\ninactive_file {1 << 30}\n",
        },
        {  # version 1, where the path is the host's and does not exist in the container
            "proc/self/cgroup": "5:cpu,cpuacct:/docker/ab\n4:memory:/docker/ab\n0::/docker/ab\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": str(4 << 30),
            "sys/fs/cgroup/memory/memory.usage_in_bytes": str(3 << 30),
            "sys/fs/cgroup/memory/memory.stat": f"total_inactive_file {1 << 30}\n",
        },
        {  # the limit is that of a group above
            "proc/self/cgroup": "0::/pod/task",
            "sys/fs/cgroup/pod/task/cpu.max": "max 100000",
            "sys/fs/cgroup/pod/cpu.max": "150000 100000",
            "sys/fs/cgroup/pod/task/memory.max": "max",
            "sys/fs/cgroup/pod/memory.max": str(4 << 30),
            "sys/fs/cgroup/pod/memory.current": str(2 << 30),
        },
    ],
    ids=["v2", "v1", "nested"],
)
def test_a_container_with_2_of_64_cpus_and_4_of_256_gib(tmp_path: Path, groups: dict[str, str]):
    root = machine(tmp_path, groups)
    found = inspect(root, {}, NO_GPU, CPU_TORCH)
    assert found.hardware.count("cpu") == found.processor.count == 2
    assert found.processor.present == 64
    assert found.memory == limits.Memory(4 << 30, 2 << 30, 256 << 30)
    assert "2 of 64 × Xeon 8480 (the container's share is" in said(found)
    assert "2.0 GiB free of 4.0 GiB (the container's share of 256.0 GiB)" in said(found)


def test_without_a_container_the_affinity_counts(tmp_path: Path):
    root = machine(tmp_path, {"proc/self/status": "Cpus_allowed_list:\t0-2,8\n"})
    assert probe(root, {}, CPU_TORCH).count("cpu") == 4
    found = inspect(root, {}, NO_GPU, CPU_TORCH)
    assert found.memory.total == 256 << 30
    assert found.processor.abilities["bf16"].level == "fast"  # amx_bf16
    assert found.processor.abilities["fp16"].level == "slow"


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        (None, ["Tesla T4", "NVIDIA H100"]),
        ("1", ["NVIDIA H100"]),
        ("1,0", ["NVIDIA H100", "Tesla T4"]),
        ("GPU-bb", ["NVIDIA H100"]),
        ("0,7,1", ["Tesla T4"]),  # nothing behind a wrong entry
        ("0,0", []),
        ("", []),
        ("-1", []),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_does(
    tmp_path: Path, listed: str | None, names: list[str]
):
    root = machine(tmp_path, {"dev/nvidia0": "", "dev/nvidia1": "", "dev/nvidiactl": ""})
    environ = {} if listed is None else {"CUDA_VISIBLE_DEVICES": listed}
    found = inspect(root, environ, Driver(T4, H100), CUDA_TORCH)
    assert [card.name for card in found.cards] == names
    assert found.hardware.count("cuda") == len(names)
    if not names:
        assert "CUDA_VISIBLE_DEVICES hides them all" in said(found)
        with pytest.raises(ConfigError, match="device=cuda"):
            resolve(LaunchConfig(device="cuda"), found.hardware)


def test_what_each_gpu_can_do_is_said(tmp_path: Path):
    root = machine(tmp_path, {"dev/nvidia0": "", "dev/nvidia1": ""})
    found = inspect(root, {}, Driver(T4, H100), CUDA_TORCH)
    old, new = (card.abilities for card in found.cards)
    assert [old[name].level for name in ("fp16", "bf16", "fp8")] == ["fast", "slow", "no"]
    assert [new[name].level for name in ("fp16", "bf16", "fp8")] == ["fast", "fast", "fast"]
    assert "Tesla T4, compute capability 7.5, 14.0 GiB free of 15.0 GiB" in said(found)
    assert "bf16 slow (emulated" in said(found)
    assert "580.65, for CUDA up to 13.0" in said(found)


def test_of_a_split_gpu_a_process_gets_one_instance(tmp_path: Path):
    root = machine(tmp_path, {"dev/nvidia0": ""})
    mig = [{"name": "H100 MIG 1g.10gb", "uuid": f"MIG-{n}", "gib": 10} for n in (1, 2)]
    gpus = Driver(H100 | {"mig": mig})
    for environ in ({"CUDA_VISIBLE_DEVICES": "MIG-2,MIG-1"}, {"CUDA_VISIBLE_DEVICES": "0"}):
        found = inspect(root, environ, gpus, CUDA_TORCH)
        assert [card.memory for card in found.cards] == [10 << 30]
        assert found.hardware.count("cuda") == 1
        assert "split (MIG)" in said(found)


@pytest.mark.parametrize(
    ("files", "driver", "build", "expected"),
    [
        (
            ["dev/nvidia0", "dev/nvidia1"],
            Driver(T4, T4),
            CPU_TORCH,
            "2 NVIDIA GPUs found, but torch is 2.13.0+cpu, built for CPU only: pip",
        ),
        (["dev/nvidia0"], NO_GPU, CUDA_TORCH, "libnvidia-ml.so.1 is missing"),
        (["dev/nvidiactl"], Driver(), CUDA_TORCH, "580.65 is loaded, but there is no GPU"),
        (
            ["dev/nvidia0"],
            Driver(T4, cuda=12040),
            CUDA_TORCH,
            "torch needs CUDA 13.0, but the NVIDIA driver 580.65 goes up to 12.4",
        ),
    ],
    ids=["cpu torch", "no nvml", "no gpu", "old driver"],
)
def test_what_is_wrong_is_said_with_what_to_do(
    tmp_path: Path, files: list[str], driver: Driver, build: TorchBuild, expected: str
):
    found = inspect(machine(tmp_path, dict.fromkeys(files, "")), {}, driver, build)
    assert expected in said(found)


def test_gpus_for_which_torch_is_not_built_are_refused_with_the_reason(tmp_path: Path):
    hardware = probe(machine(tmp_path, {"dev/nvidia0": ""}), {}, CPU_TORCH)
    assert hardware.best_device == "cpu"
    assert "built for CPU only" in str(hardware.why_not("cuda"))


def test_amd_gpus_are_found_by_their_driver(tmp_path: Path):
    nodes = "sys/class/kfd/kfd/topology/nodes"
    files = {f"{nodes}/0/properties": "cpu_cores_count 64\nsimd_count 0\n", "dev/kfd": ""}
    for at, version in enumerate((90402, 90010)):
        device = f"sys/class/drm/renderD{128 + at}/device"
        files |= {
            f"{nodes}/{at + 1}/properties": f"simd_count 304\ngfx_target_version {version}\n"
            f"unique_id {0xABC0 + at}\ndrm_render_minor {128 + at}\n",
            f"{device}/mem_info_vram_total": str(64 << 30),
            f"{device}/mem_info_vram_used": str(4 << 30),
            f"{device}/product_name": f"AMD Instinct {at}",
        }
    root = machine(tmp_path, files)
    found = inspect(root, {}, NO_GPU, ROCM_TORCH)
    assert found.hardware.count("cuda") == 2
    assert [(card.detail, card.free) for card in found.cards] == [
        ("gfx942", 60 << 30),
        ("gfx90a", 60 << 30),
    ]
    assert [card.abilities["fp8"].level for card in found.cards] == ["fast", "no"]
    chosen = inspect(root, {"HIP_VISIBLE_DEVICES": "GPU-abc1"}, NO_GPU, ROCM_TORCH)
    assert [card.name for card in chosen.cards] == ["AMD Instinct 1"]
    assert chosen.hardware.count("cuda") == 1
    assert "AMD GPUs found, but torch is" in str(probe(root, {}, CPU_TORCH).why_not("cuda"))


@pytest.mark.parametrize(
    ("files", "environ", "name"),
    [
        (  # a TPU VM, and Kaggle's: chips on PCI, files of VFIO
            {
                **{f"dev/vfio/{n}": "" for n in range(4)},
                **{f"sys/bus/pci/devices/0000:00:0{n}.0/vendor": "0x1ae0" for n in range(4)},
                **{f"sys/bus/pci/devices/0000:00:0{n}.0/device": "0x0063" for n in range(4)},
            },
            {},
            "TPU v5e",
        ),
        (  # Colab: the environment says it
            {f"dev/accel{n}": "" for n in range(4)},
            {"TPU_ACCELERATOR_TYPE": "v4-8", "TPU_WORKER_ID": "0", "COLAB_RELEASE_TAG": "r"},
            "TPU v4-8",
        ),
    ],
    ids=["pci", "environment"],
)
def test_tpu_chips_are_found_and_the_missing_package_is_named(
    tmp_path: Path, files: dict[str, str], environ: dict[str, str], name: str
):
    found = inspect(machine(tmp_path, files), environ, NO_GPU, CPU_TORCH)
    assert [card.name for card in found.cards] == [name] * 4
    assert "4 TPU chips found, but no package that drives them: pip install 'accelnb[tpu]'" in (
        said(found)
    )
    assert found.hardware.best_device == "cpu"


def test_devices_that_only_look_like_a_tpu_are_none(tmp_path: Path):
    root = machine(tmp_path, {"dev/vfio/0": "", "dev/accel/accel0": ""})  # a GPU; an NPU
    assert not inspect(root, {"KAGGLE_USERNAME": "me"}, NO_GPU, CPU_TORCH).cards


def test_the_probe_is_cheap_enough_for_every_cell():
    probe()
    assert min(timeit.repeat(probe, number=20, repeat=10)) / 20 < 1e-3
