"""What the fork server imports before ranks start, and whether that began to use a device."""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence

from accelnb.devices import DEVICES
from accelnb.engine.process.children import parent_fd
from accelnb.engine.process.procfs import open_files
from accelnb.engine.process.rank_environment import NO_PLUGINS
from accelnb.engine.wire.channel import Channel

# No plugin of torch's loads with it, and `torch.cuda.is_available()` asks NVML, not CUDA.
_WHILE_IMPORTING = NO_PLUGINS | {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
# What is open in a process that has begun to use a device, whoever began it: NVIDIA's runtime
# opens the first, AMD's the second. Asking NVML opens none of them.
_OPEN_FILES = ("/dev/nvidia-uvm", "/dev/kfd")


@contextlib.contextmanager
def no_device_at_import() -> Iterator[None]:
    """Set meanwhile what keeps libraries from using a device while they are imported."""
    given = {name: os.environ.get(name) for name in _WHILE_IMPORTING}
    os.environ.update(_WHILE_IMPORTING)
    yield
    for name, value in given.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def preload(modules: list[str], control: Channel, folders: Sequence[str]) -> str | None:
    """Import `modules`; leave at once if the notebook's process ends meanwhile.

    Parameters
    ----------
    folders
        Those that the notebook's process would have removed.

    Returns
    -------
    spoilt_by : str or None
        The first of them that began to use a device, which none of them should.
    """
    spoilt_by = None
    stop_reads, stop_writes = os.pipe()

    def watch() -> None:
        poll = select.poll()
        poll.register(control.fileno(), 0)  # POLLHUP is always reported
        poll.register(stop_reads, select.POLLIN)
        if (owner := parent_fd()) is not None:
            poll.register(owner, select.POLLIN)
        if all(fd != stop_reads for fd, _ in poll.poll()):
            remove(folders)
            os._exit(0)
        if owner is not None:
            os.close(owner)

    watcher = threading.Thread(target=watch, name="accelnb-owner-watch")
    watcher.start()
    try:
        for name in modules:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
            if spoilt_by is None and device_in_use():
                spoilt_by = name
    finally:
        os.write(stop_writes, b"x")
        watcher.join()  # no thread of ours is alive at a fork
        os.close(stop_reads)
        os.close(stop_writes)
    return spoilt_by


def remove(folders: Sequence[str]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def device_in_use() -> str | None:
    """Return what shows that this process uses a device, so that no fork of it could.

    Examples
    --------
    >>> from accelnb.worker.preload import device_in_use
    >>> print(device_in_use())
    None
    """
    torch = sys.modules.get("torch")
    for kind in DEVICES.values():
        module = getattr(torch, kind.type, None)
        has_begun = getattr(module, "is_initialized", None)
        if kind.type != "cpu" and has_begun is not None and has_begun():
            return f"torch.{kind.type} is initialized"
    return next((f"{file} is open" for file in open_files().values() if file in _OPEN_FILES), None)
