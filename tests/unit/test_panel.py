"""The panel without a browser: its choices, messages and files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ipywidgets
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from accelnb.devices.hardware import Hardware
from accelnb.engine.launchers import ray_connection
from accelnb.notebook.panel.config_draft import Draft
from accelnb.notebook.panel.elements import Message
from accelnb.notebook.panel.panel import Panel
from accelnb.notebook.session import Session
from accelnb.options.config import LaunchConfig


class Driver:
    """The panel of a notebook in a folder of its own, used as its user does."""

    def __init__(self, folder: Path) -> None:
        shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
        self.file = folder / "accelnb.yaml"
        self.session = Session(shell)
        self.panel: Any = None

    def open(self) -> None:
        self.panel = Panel(self.session)

    def press(self, label: str) -> None:
        self.button(label).click()

    def button(self, label: str) -> ipywidgets.Button:
        return self._find(ipywidgets.Button, label)

    def offers(self, label: str) -> bool:
        return any(getattr(widget, "description", None) == label for widget in self._all())

    def type(self, label: str, value: Any) -> None:
        self._find(ipywidgets.ValueWidget, label).value = value

    @property
    def text(self) -> str:
        """All that it says."""
        return "\n".join(w.value for w in self._all() if isinstance(w, ipywidgets.HTML))

    def _find(self, kind: type, label: str) -> Any:
        return next(w for w in self._all() if isinstance(w, kind) and w.description == label)

    def _all(self, widget: Any = None) -> Iterator[Any]:
        widget = widget or self.panel._widget
        yield widget
        for child in getattr(widget, "children", ()):
            yield from self._all(child)


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    monkeypatch.setattr(ray_connection, "_seen", {})
    driver = Driver(tmp_path)
    yield driver
    driver.panel.close()


def test_a_choice_that_rules_out_another_says_so_and_puts_it_back():
    draft = Draft(LaunchConfig(), Hardware({"cpu": 8, "cuda": 2}))
    draft.choose("precision", "fp8")
    assert draft.in_force("procs") == 2
    draft.choose("device", "cpu")
    assert draft.config == LaunchConfig(device="cpu")
    assert "fp8 is not possible any more" in draft.moved["precision"]
    draft.choose("procs", 3)
    assert not draft.moved


def test_what_is_wrong_is_said_beside_its_control_and_nothing_can_be_done_with_it(driver):
    driver.open()
    driver.type("Mesh", "dp_replicate=2,tp=2")
    driver.type("Processes", 3)
    assert "has 4 places for 3 ranks" in driver.text
    driver.type("Mesh", "rows=2")
    assert "must be dimensions such as dp_shard=2,tp=2" in driver.text
    assert all(driver.button(label).disabled for label in ("Test", "Use now", "Save"))
    driver.type("Mesh", "tp=3")
    driver.press("Use now")
    assert driver.session.defaults() == LaunchConfig(procs=3, mesh=(("tp", 3),))


def test_a_mesh_and_a_strategy_say_what_they_do_to_the_memory_of_each_rank(driver):
    driver.open()
    driver.type("Processes", 4)
    assert "each of 4 ranks has: ddp 18.63 GiB, fsdp 3.96 GiB." in driver.text
    assert "4 ranks: copies 4; each rank holds the whole model" in driver.text
    assert driver.button("hsdp").disabled
    driver.press("fsdp")
    assert "4 ranks: data 4; each rank holds 1/4" in driver.text
    driver.type("Mesh", "dp_replicate=2,dp_shard=-1")
    driver.press("hsdp")
    assert "4 ranks: copies 2 x data 2; each rank holds 1/2" in driver.text
    assert "ddp 18.63 GiB, this mesh 7.68 GiB." in driver.text
    driver.press("none")
    driver.type("Mesh", "dp_shard=2,tp=2")
    assert "4 ranks: data 2 x tensor 2" in driver.text
    assert "tensor 2; each" not in driver.text
    driver.type("Mesh", "dp_shard=3,tp=-1")
    assert "cannot be divided by 3" in driver.text
    assert "tensor" not in driver.text


def test_a_device_that_vanished_since_save_is_named_and_another_can_be_chosen(driver):
    driver.file.write_text("version: 1\ndevice: tpu\nprecision: bf16\n")
    driver.open()
    assert "device: not found on this machine" in driver.text
    assert driver.button("Save").disabled
    assert driver.button("tpu").disabled
    driver.press("cpu")
    assert not driver.offers("tpu")  # a choice no more: there is none here
    driver.press("Save")
    assert driver.session.defaults() == LaunchConfig(device="cpu", precision="bf16")


def test_the_address_of_a_cluster_is_typed_and_taken_back_by_a_choice(driver):
    driver.open()
    for text in ("ray", "ray:", "ray://head"):
        driver.type("Address", text)
    assert "%%distributed --cluster ray://head:10001" in driver.text
    driver.press("Use now")
    assert driver.session.defaults() == LaunchConfig(cluster="ray://head:10001")
    driver.panel.close()
    driver.open()
    driver.press("local")
    driver.press("Use now")
    assert driver.session.defaults() == LaunchConfig()


def test_a_cluster_shows_its_own_devices_and_before_it_was_reached_all_can_be_chosen(driver):
    driver.open()
    assert not driver.offers("tpu")
    driver.type("Address", "ray://head")
    assert "Not reached yet" in driver.text
    driver.press("tpu")
    driver.type("Processes", 16)
    assert not driver.button("Use now").disabled
    ray_connection._seen["ray://head:10001"] = Hardware({"cpu": 8, "tpu": 4})
    driver.press("auto")
    assert "4 tpu" in driver.text
    driver.press("local")
    assert "4 tpu" not in driver.text


def test_a_file_that_cannot_be_read_is_replaced_only_when_asked_twice(driver):
    driver.file.write_text("version: 1\nprecision: fp12\n")
    driver.open()
    assert "accelnb.yaml, line 2: precision=fp12" in driver.text
    driver.press("Save")
    assert "Replace the file?" in driver.text
    assert "fp12" in driver.file.read_text()
    driver.press("Replace it")
    assert "Saved to" in driver.text
    assert driver.session.defaults() == LaunchConfig()


def test_a_file_that_cannot_be_written_is_one_line_in_the_panel(driver):
    driver.open()
    driver.file.mkdir()  # in its place: also the administrator cannot write it
    driver.press("Save")
    driver.press("Replace it")
    assert "accelnb.yaml cannot be written: Is a directory" in driver.text


def test_saving_ends_what_was_chosen_for_the_session(driver):
    driver.open()
    driver.press("bf16")
    driver.press("Use now")
    driver.press("fp16")
    driver.press("Save")
    assert driver.session.defaults() == LaunchConfig(precision="fp16")
    driver.file.write_text("version: 1\nprocs: 4\n")
    assert driver.session.defaults() == LaunchConfig(procs=4)


def test_import_takes_over_an_accelerate_file_and_names_what_it_leaves_out(driver, tmp_path):
    driver.open()
    file = tmp_path / "theirs.yaml"
    file.write_text(
        "distributed_type: FSDP\nnum_processes: 4\nmixed_precision: bf16\ngpu_ids: 0,1\n"
        "fsdp_config:\n  fsdp_offload_params: true\n"
        "parallelism_config:\n  parallelism_config_dp_shard_size: 4\n"
    )
    driver.type("Import from Accelerate", str(file))
    driver.press("Import")
    line = "%%distributed --procs 4 --precision bf16 --strategy fsdp --mesh dp_shard=4"
    assert line in driver.text
    assert "strategy=fsdp, mesh=dp_shard=4" in driver.text or "mesh=dp_shard=4" in driver.text
    assert "Not taken over: gpu_ids: 0,1." in driver.text
    assert "by a FullyShardedDataParallelPlugin or a ParallelismConfig: fsdp_offload" in driver.text
    file.write_text("distributed_type: XLA\n")
    driver.press("Import")
    assert "To put right: device: not found on this machine" in driver.text
    driver.type("Import from Accelerate", "nowhere.yaml")
    driver.press("Import")
    assert "nowhere.yaml cannot be read: No such file or directory" in driver.text


def test_no_error_of_a_callback_is_lost():
    message = Message()
    message.guard(lambda: print(1 // 0))()
    assert (
        "unexpected ZeroDivisionError: integer division or modulo by zero" in message.widget.value
    )


def test_export_writes_the_script_and_asks_before_it_replaces_one(driver: Driver):
    shell: Any = driver.session.shell
    shell.history_manager.input_hist_raw[:] = ["", "%%distributed\nprint(rank)"]
    shell.execution_count = 2
    driver.open()
    driver.press("Export")
    script = Path("train.py")
    assert "Written: train.py" in driver.text
    assert "print(rank)" in script.read_text()
    script.write_text("mine")
    driver.press("Export")
    assert "Replace the file?" in driver.text
    assert script.read_text() == "mine"
    driver.press("Replace it")
    assert "print(rank)" in script.read_text()
