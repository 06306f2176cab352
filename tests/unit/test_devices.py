"""The table of devices: what a process does by it, and the page about it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from accelnb.devices import DEVICES, Device, abilities, best_available
from accelnb.errors import AccelnbError
from accelnb.export.launcher_files import accelerate_text
from accelnb.options.accelerate_file import read_accelerate
from accelnb.options.config import LaunchConfig
from accelnb.training.enums import DistributedType, RNGType

PAGE = Path(__file__).parents[2] / "docs" / "devices.md"


class FakeModule:
    """What torch has for a kind of device, on a machine with two of them."""

    def __init__(self) -> None:
        self.current: torch.device | None = None

    def device_count(self) -> int:
        return 2

    def current_device(self) -> int:
        return 1

    def set_device(self, device: torch.device) -> None:
        self.current = device

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return self.current is not None

    def memory_allocated(self) -> int:
        return 123


@pytest.fixture
def xpu(monkeypatch: pytest.MonkeyPatch) -> FakeModule:
    """A machine with two Intel GPUs, as far as torch tells."""
    module = FakeModule()
    monkeypatch.setattr(torch, "xpu", module)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return module


def test_a_cpu_rank_has_the_cpu_and_one_backend_whatever_its_number():
    cpu = DEVICES["cpu"]
    assert cpu.take(local_rank=3) == torch.device("cpu")
    assert not cpu.is_shared(ranks=100)
    assert cpu.allocated() is None
    assert cpu.why_not("bf16") is None
    cpu.synchronize()
    cpu.empty_cache()


def test_a_rank_takes_the_device_of_its_local_number(xpu: FakeModule):
    device = DEVICES["xpu"]
    assert device.allocated() is None  # a device is not begun to be used by being asked
    assert device.take(local_rank=1) == torch.device("xpu", 1) == xpu.current
    assert device.allocated() == 123
    assert best_available() is device


def test_a_mac_has_one_gpu_for_one_rank(monkeypatch: pytest.MonkeyPatch):
    mps = DEVICES["mps"]
    monkeypatch.setattr(torch, "mps", SimpleNamespace(device_count=lambda: 1))
    assert mps.take(local_rank=0) == torch.device("mps")
    assert mps.why_not("fp16") is None
    assert mps.why_not("fp8") == "mps cannot; choose one of no, fp16, bf16"
    assert (mps.kind, mps.shares, mps.starts) == ("NO", "never", ("spawn",))


@pytest.mark.parametrize("name", ["cuda", "mps", "xpu"])
def test_a_rank_without_its_device_says_so_in_one_line(name: str):
    if DEVICES[name].is_available():
        pytest.skip(f"this machine has a device {name}")
    with pytest.raises(AccelnbError) as error:  # as with a driver that is too old
        DEVICES[name].take(local_rank=0)
    assert str(error.value).startswith(f"device={name}: torch {torch.__version__} sees no ")
    assert "\n" not in str(error.value)


def test_ranks_that_share_a_gpu_use_gloo(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "cuda", FakeModule())
    for cuda in (DEVICES["cuda"], DEVICES["rocm"]):
        assert cuda.backend_for(cuda.is_shared(ranks=2)) == "cpu:gloo,cuda:nccl"
        assert cuda.backend_for(cuda.is_shared(ranks=3)) == "gloo"


@pytest.mark.parametrize(
    ("hip", "card", "said"),
    [
        (None, (8, 0), "this GPU is of compute capability 8.0; fp8 needs compute capability 8.9"),
        (None, (9, 0), None),
        ("7.0", "gfx90a:sramecc+", "this GPU is gfx90a; fp8 needs units that this GPU lacks"),
        ("7.0", "gfx942:sramecc+", None),
    ],
)
def test_fp8_is_refused_on_a_gpu_that_has_none(
    monkeypatch: pytest.MonkeyPatch, hip: str | None, card: Any, said: str | None
):
    properties = SimpleNamespace(gcnArchName=card)
    module = SimpleNamespace(
        get_device_capability=lambda: card, get_device_properties=lambda: properties
    )
    monkeypatch.setattr(torch, "cuda", module)
    monkeypatch.setattr(torch.version, "hip", hip)
    reason = DEVICES["cuda"].why_not("fp8")  # torch calls an AMD GPU cuda too
    assert reason == (said and f"{said}; use bf16")


@pytest.fixture
def install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[[str, str], None]]:
    """Puts a package with this code where Python finds it, until the test is over."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, code: str) -> None:
        file = tmp_path / f"{name.replace('.', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)

    yield write
    for name in set(sys.modules) - before:
        if name.startswith(("torch_", "habana_")):
            del sys.modules[name]


def test_a_device_of_a_plugin_is_known_to_torch_after_the_plugin_was_imported(
    monkeypatch: pytest.MonkeyPatch, install: Callable[[str, str], None]
):
    hpu = DEVICES["hpu"]
    assert not hpu.is_available()
    with pytest.raises(AccelnbError, match=r"device=hpu: the package .* does not load: No mod"):
        hpu.take(local_rank=0)
    monkeypatch.setattr(torch, "hpu", None, raising=False)  # put back when the test is over
    install(hpu.package, "import torch; torch.hpu = torch.made_up")
    monkeypatch.setattr(torch, "made_up", FakeModule(), raising=False)
    assert hpu.is_available()
    assert hpu.take(local_rank=0) == torch.device("hpu", 1)  # the one that the plugin gave


def test_a_plugin_that_does_not_load_says_why(install: Callable[[str, str], None]):
    install("torch_mlu", "raise OSError('libcnrt.so: cannot open shared object')")
    with pytest.raises(AccelnbError, match=r"torch_mlu does not load: libcnrt\.so: cannot"):
        DEVICES["mlu"].load()
    assert not DEVICES["mlu"].is_available()


def test_the_training_knows_every_kind_of_device():
    for device in DEVICES.values():
        assert device.kind in DistributedType.list()
        assert device.type in (*RNGType.list(), "cpu", "mps", "tpu")  # torch seeds these itself


@pytest.mark.parametrize(
    ("device", "kind", "read"),
    [("rocm", "MULTI_GPU", "cuda"), ("npu", "MULTI_NPU", "npu"), ("xpu", "MULTI_XPU", "xpu")],
)
def test_accelerates_file_names_the_device_in_its_own_way(
    tmp_path: Path, device: str, kind: str, read: str
):
    file = tmp_path / "theirs.yaml"
    file.write_text(accelerate_text(LaunchConfig(procs=2, device=device)))
    assert f"distributed_type: {kind}\n" in file.read_text()
    assert read_accelerate(file)["device"] == read  # `cuda` means AMD's GPUs where these are


def test_nothing_is_promised_of_a_card_that_is_not_known():
    assert abilities("npu") == {}
    assert str(abilities("mps")["fp16"]) == "fast"


def reference() -> str:
    """Return the table of devices as the page has it."""
    return "\n".join(
        [
            "| device | start | backend | precisions | strategies | interrupt | memory | run on |",
            "|---|---|---|---|---|---|---|---|",
            *(f"| {' | '.join(_cells(device))} |" for device in DEVICES.values()),
        ]
    )


def _cells(device: Device) -> Iterator[str]:
    one_rank = device.kind == "NO"
    yield f"`{device.name}`: {device.title}"
    yield ", ".join(device.starts)
    yield "none" if one_rank else f"`{device.backend}`"
    yield ", ".join(device.precisions)
    yield "one rank" if one_rank else "ddp, none"
    if one_rank:
        yield "no collectives"
    elif device.aborts:
        yield "abort"
    elif device.backend == "gloo":
        yield "break its connections"
    else:
        yield "replace the rank" if device.rejoins else "replace all ranks"
    yield _meter(device)
    yield device.run_on or "*not run*"


def _meter(device: Device) -> str:
    if device.type == "cpu":
        return "the process's own"
    if device.kind == "XLA":
        return "nobody"
    return "torch, and NVML" if device.meter else "torch"


def plugins() -> str:
    """Return the table of torch's plugins as the page has it."""
    lines = ["| device | package | how to get it | device files | Ray |", "|---|---|---|---|---|"]
    for device in (device for device in DEVICES.values() if device.files):
        package = device.package.partition(".")[0]
        ray = f"`{device.resource}`" if device.resource else ""
        lines.append(
            f"| `{device.name}`: {device.title} | `{package}` | {device.install} "
            f"| `/dev/{device.files}0` | {ray} |"
        )
    return "\n".join(lines)


@pytest.mark.parametrize(("name", "table"), [("devices", reference()), ("plugins", plugins())])
def test_the_page_has_the_devices_as_they_are(name: str, table: str):
    begin, end = f"<!-- {name}: begin -->\n", f"\n<!-- {name}: end -->"
    assert PAGE.read_text().partition(begin)[2].partition(end)[0] == table, (
        "docs/devices.md: put in what `python tests/unit/test_devices.py` prints"
    )


if __name__ == "__main__":
    print(reference(), plugins(), sep="\n\n")
