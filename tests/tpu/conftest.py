"""Chips that are none: torch_xla's launcher starts a process for each, on the CPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_PLUGIN = """
import os

from torch_xla import runtime
from torch_xla.experimental.plugins import DevicePlugin


class TwoChips(DevicePlugin):
    def physical_chip_count(self):
        return 2

    def configure_multiprocess(self, local_rank, local_world_size):
        if os.environ.get("BUSY_CHIP") == str(local_rank):
            raise RuntimeError(f"chip {local_rank} is in use by another process")
        os.environ["PJRT_DEVICE"] = "CPU"
        # Each process has a slice of its own: what torch_xla would read from a common one.
        runtime._WORLD_SIZE, runtime._ORDINAL = local_world_size, local_rank
"""


@pytest.fixture(scope="session")
def plugin_of_two_chips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a PJRT plugin of two chips, as packages bring one to torch_xla."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "two_chips.py").write_text(_PLUGIN)
    about = folder / "two_chips-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: two-chips\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[torch_xla.plugins]\ntwochips = two_chips:TwoChips\n")
    return folder


@pytest.fixture(scope="module")
def two_chips(plugin_of_two_chips: Path) -> Iterator[None]:
    """Ranks on two chips; the fork server is new, for it hands on the path where the plugin is."""
    from accelnb.engine.launchers.local import close_fork_server

    close_fork_server()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(plugin_of_two_chips)])
        patch.setenv("PJRT_DEVICE", "TWOCHIPS")
        yield
        close_fork_server()
