"""What is found on machines that are written down here as files and environments."""

from __future__ import annotations

import os
import sys
import timeit
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from accelnb.devices.hardware import TorchBuild, probe, tpu, usable_resources
from accelnb.devices.hardware.machine import Machine
from accelnb.devices.hardware.machine import inspect_machine as inspect
from accelnb.devices.hardware.report_rows import hardware_rows
from accelnb.options.config import ConfigError, LaunchConfig, resolve

CPU_TORCH = TorchBuild("2.13.0+cpu")
CUDA_TORCH = TorchBuild("2.13.0+cu130", cuda="13.0")
ROCM_TORCH = TorchBuild("2.13.0+rocm7.0", hip="7.0")
XPU_TORCH = TorchBuild("2.13.0+xpu", xpu="20250301")


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
    assert found.memory == usable_resources.Memory(4 << 30, 2 << 30, 256 << 30)
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


@pytest.mark.parametrize("count", [1, 2])
def test_ranks_on_one_nvidia_gpu_were_tried_and_on_several_at_once_not(tmp_path: Path, count: int):
    root = machine(tmp_path, {f"dev/nvidia{n}": "" for n in range(count)})
    found = inspect(root, {}, Driver(*[H100] * count), CUDA_TORCH)
    assert found.hardware.count("cuda") == count
    untried = "accelnb's authors have run no ranks on several cuda devices at once so far"
    assert (untried in said(found)) == (count > 1)
    assert "no ranks on cuda" not in said(found)


def test_a_precision_that_only_some_gpus_have_is_said(tmp_path: Path):
    root = machine(tmp_path, {f"dev/nvidia{n}": "" for n in range(3)})
    found = inspect(root, {}, Driver(T4, H100, T4), CUDA_TORCH)
    assert (
        "bf16 is fast on cuda 1 (NVIDIA H100), slow on cuda 0 and 2 (Tesla T4); on all together it "
        "is as slow as on the slowest: choose among them by CUDA_VISIBLE_DEVICES"
    ) in found.notes
    assert any(note.startswith("fp8 is fast on cuda 1") for note in found.notes)
    assert not any(note.startswith("fp16") for note in found.notes)
    assert not inspect(root, {}, Driver(T4, T4, T4), CUDA_TORCH).notes


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
    assert found.hardware.count("rocm") == 2
    assert [(card.detail, card.free) for card in found.cards] == [
        ("gfx942", 60 << 30),
        ("gfx90a", 60 << 30),
    ]
    assert [card.abilities["fp8"].level for card in found.cards] == ["fast", "no"]
    chosen = inspect(root, {"HIP_VISIBLE_DEVICES": "GPU-abc1"}, NO_GPU, ROCM_TORCH)
    assert [card.name for card in chosen.cards] == ["AMD Instinct 1"]
    assert chosen.hardware.count("rocm") == 1
    assert "AMD GPUs found, but torch is" in str(probe(root, {}, CPU_TORCH).why_not("cuda"))
    hidden = probe(root, {"ROCR_VISIBLE_DEVICES": ""}, ROCM_TORCH)
    assert hidden.why_not("cuda") == (
        "2 AMD GPUs found, but ROCR_VISIBLE_DEVICES hides them all: unset it"
    )
    ranks = resolve(LaunchConfig(device="cuda"), found.hardware)
    assert (ranks.device, ranks.procs, ranks.start) == ("rocm", 2, "spawn")
    with pytest.raises(ConfigError, match="2 rocm devices; use --procs 2 at most, --device rocm"):
        resolve(LaunchConfig(procs=3), found.hardware)
    assert "accelnb's authors have run no ranks on rocm so far" in said(found)


def test_intel_gpus_are_counted_where_torch_is_built_for_them(tmp_path: Path):
    files = {f"sys/class/drm/renderD{n}/device/vendor": "0x8086" for n in (128, 129)}
    files["sys/class/drm/renderD130/device/vendor"] = "0x10de"
    root = machine(tmp_path, files)
    found = inspect(root, {}, NO_GPU, XPU_TORCH)
    assert [card.name for card in found.cards] == ["Intel GPU"] * 2
    ranks = resolve(LaunchConfig(), found.hardware)
    assert (ranks.device, ranks.procs, ranks.start) == ("xpu", 2, "spawn")
    with pytest.raises(ConfigError, match="this machine has 2 xpu devices; use --procs 2 at most"):
        resolve(LaunchConfig(device="xpu", procs=3), found.hardware)
    assert probe(root, {"ZE_AFFINITY_MASK": "1.0,1.1"}, XPU_TORCH).count("xpu") == 1
    hidden = probe(root, {"ZE_AFFINITY_MASK": ""}, XPU_TORCH)
    assert "2 Intel GPUs found, but ZE_AFFINITY_MASK hides" in str(hidden.why_not("xpu"))
    assert not probe(root, {}, CPU_TORCH).is_there("xpu")


def test_a_mac_has_one_gpu_for_one_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = machine(tmp_path, {})
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="arm64"))
    found = probe(root, {}, TorchBuild("2.13.0"))
    ranks = resolve(LaunchConfig(), found)
    assert (ranks.device, ranks.procs, ranks.start) == ("mps", 1, "spawn")
    with pytest.raises(ConfigError, match="has 1 mps device; use --procs 1 at most, or --device c"):
        resolve(LaunchConfig(procs=2), found)
    assert resolve(LaunchConfig(device="cpu"), found).start == "spawn"


@pytest.mark.parametrize(
    ("device", "files", "found"),
    [
        ("npu", ["davinci0", "davinci1", "davinci_manager"], "2 Ascend NPUs found, but the package "
         "torch_npu is not installed: pip install torch-npu"),
        ("hpu", ["accel/accel0", "accel/accel_controlD0"], "1 Gaudi HPU found, but the package"),
        ("mlu", ["cambricon_dev0", "cambricon_ctl"], "1 Cambricon MLU found, but the package"),
        ("musa", ["mtgpu.0"], "1 Moore Threads GPU found, but the package torch_musa is not"),
        ("sdaa", [f"tcaicard{n}" for n in range(4)], "4 Teco SDAA cards found, but the package"),
        ("neuron", ["neuron0"], "1 Trainium chip found, but the package torch_neuronx is not"),
    ],
)  # fmt: skip
def test_a_device_that_needs_a_plugin_is_found_and_the_missing_package_is_named(
    tmp_path: Path, device: str, files: list[str], found: str
):
    machines = inspect(
        machine(tmp_path, {f"dev/{name}": "" for name in files}), {}, NO_GPU, CPU_TORCH
    )
    assert [note.startswith(found) for note in machines.notes] == [True]
    with pytest.raises(ConfigError) as error:
        resolve(LaunchConfig(device=device), machines.hardware)
    assert str(error.value).startswith(f"device={device}: {found}")
    assert "\n" not in str(error.value)


def test_a_device_with_its_plugin_is_the_machines_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "torch_npu.py").write_text("raise SystemExit('imported')")  # it must not be
    monkeypatch.syspath_prepend(str(packages))
    root = machine(tmp_path, {f"dev/davinci{n}": "" for n in range(8)})
    found = inspect(root, {"ASCEND_RT_VISIBLE_DEVICES": "4,5,6"}, NO_GPU, CPU_TORCH)
    assert [card.name for card in found.cards] == ["Ascend NPU"] * 3
    ranks = resolve(LaunchConfig(precision="bf16"), found.hardware)
    assert (ranks.device, ranks.procs, ranks.start) == ("npu", 3, "spawn")
    assert "npu 2: Ascend NPU" in said(found)


def tpu_host(chips: int, device: str = "", files: str = "dev/accel") -> dict[str, str]:
    """Return the device files of a host with TPU chips, and what PCI says of them."""
    pci = "sys/bus/pci/devices/0000:00:0{}.0"
    there = {f"{files}{n}": "" for n in range(chips)}
    for n in range(chips if device else 0):
        there |= {f"{pci.format(n)}/vendor": "0x1ae0", f"{pci.format(n)}/device": device}
    return there


TPU_HOSTS = [  # name, files, environment, TPU, chips, most ranks on torch_xla
    ("Colab's v2-8", tpu_host(4), {"TPU_ACCELERATOR_TYPE": "v2-8"}, "TPU v2", 4, 1),
    (
        "Kaggle's v3-8",
        tpu_host(4, "0x0027"),
        {"TPU_ACCELERATOR_TYPE": "v3-8", "KAGGLE_KERNEL_RUN_TYPE": "Interactive"},
        "TPU v3",
        4,
        1,
    ),
    ("an old TPU VM", tpu_host(4, "0x0027"), {}, "TPU v2 or v3", 4, 1),
    ("a TPU VM v4-8", tpu_host(4), {"TPU_ACCELERATOR_TYPE": "v4-8"}, "TPU v4", 4, 4),
    (
        "Colab's v5e-1",
        tpu_host(1, files="dev/vfio/"),
        {"TPU_ACCELERATOR_TYPE": "v5e-1", "TPU_WORKER_ID": "0", "COLAB_RELEASE_TAG": "r"},
        "TPU v5e",
        1,
        1,
    ),
    (
        "Kaggle's v5e-8",
        tpu_host(8, files="dev/vfio/"),
        {"TPU_ACCELERATOR_TYPE": "v5litepod-8", "KAGGLE_KERNEL_RUN_TYPE": "Interactive"},
        "TPU v5e",
        8,
        8,
    ),
    ("Colab's v6e-1", tpu_host(1, "0x006f", "dev/vfio/"), {}, "TPU v6e", 1, 1),
]


@pytest.mark.parametrize(
    ("files", "environ", "name", "chips", "ranks"),
    [host[1:] for host in TPU_HOSTS],
    ids=[host[0] for host in TPU_HOSTS],
)
def test_tpu_chips_are_found_and_the_ranks_that_torch_xla_can_have(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str],
    environ: dict[str, str],
    name: str,
    chips: int,
    ranks: int,
):
    monkeypatch.setattr(tpu, "_version", {"torch_xla": "2.9.0"}.get)
    found = inspect(machine(tmp_path, files), environ, NO_GPU, TorchBuild("2.9.1"))
    assert [card.name for card in found.cards] == [name] * chips
    assert found.hardware.count("xla") == ranks
    assert found.hardware.best_device == "xla"
    assert ("use --procs 1, a rank that trains on all 8 cores" in said(found)) is (ranks < chips)


@pytest.mark.parametrize(
    ("packages", "build", "expected"),
    [
        ({}, CPU_TORCH, "8 TPU chips found, but no package that drives them: pip install"),
        (
            {"torch_xla": "2.9.0"},
            CPU_TORCH,
            "8 TPU chips found, but torch_xla 2.9.0 does not load with torch 2.13.0+cpu, only with "
            "that of its own number: pip install 'torch==2.9.*' 'accelnb[tpu-xla]', or pip "
            "uninstall torch_xla and pip install 'accelnb[tpu]' for torch >= 2.11",
        ),
        (
            {"torch_tpu": "0.2.0"},
            TorchBuild("2.9.1"),
            "8 TPU chips found, but torch_tpu 0.2.0 needs torch 2.11 or later and this is 2.9.1: "
            "pip install --upgrade torch, or pip install 'torch==2.9.*' 'accelnb[tpu-xla]'",
        ),
    ],
    ids=["no package", "torch_xla of another number", "torch_tpu with an old torch"],
)
def test_what_is_missing_for_a_tpu_is_said_in_one_line_with_the_ways_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    packages: dict[str, str],
    build: TorchBuild,
    expected: str,
):
    monkeypatch.setattr(tpu, "_version", packages.get)
    root = machine(tmp_path, tpu_host(8, "0x0063", "dev/vfio/"))
    found = inspect(root, {}, NO_GPU, build)
    assert expected in said(found)
    assert found.hardware.best_device == "cpu"
    with pytest.raises(ConfigError) as refused:
        resolve(LaunchConfig(device="tpu"), found.hardware)
    assert expected in str(refused.value)


def test_of_two_drivers_the_one_that_fits_torch_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tpu, "_version", {"torch_tpu": "0.2.0", "torch_xla": "2.9.0"}.get)
    root = machine(tmp_path, tpu_host(8, "0x0063", "dev/vfio/"))
    assert probe(root, {}, CPU_TORCH).count("tpu") == 8
    assert probe(root, {}, TorchBuild("2.9.1")).count("xla") == 8
    with pytest.raises(ConfigError, match="procs=9: this machine has 8 tpu devices"):
        resolve(LaunchConfig(device="tpu", procs=9), probe(root, {}, CPU_TORCH))


def test_torch_xla_can_be_tried_without_a_tpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root, tried = machine(tmp_path, {}), {"PJRT_DEVICE": "CPU"}
    monkeypatch.setattr(tpu, "_version", {"torch_xla": "2.9.0"}.get)
    assert resolve(
        LaunchConfig(device="tpu"), probe(root, tried, TorchBuild("2.9.1"))
    ) == LaunchConfig(device="xla", procs=1, start="xla")
    monkeypatch.setattr(tpu, "_version", {}.get)
    assert "tpu" not in probe(root, tried, CPU_TORCH).unusable


def test_devices_that_only_look_like_a_tpu_are_none(tmp_path: Path):
    root = machine(tmp_path, {"dev/vfio/0": "", "dev/accel/accel0": ""})  # a GPU; an NPU
    assert not inspect(root, {"KAGGLE_USERNAME": "me"}, NO_GPU, CPU_TORCH).cards


def test_the_probe_is_cheap_enough_for_every_cell():
    probe()
    assert min(timeit.repeat(probe, number=20, repeat=10)) / 20 < 1e-3
