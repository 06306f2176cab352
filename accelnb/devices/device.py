"""One kind of device, and what a process does with its own of that kind.

All but `xla` is asked of the module that torch has for each kind of device, such as ``torch.cuda``;
plugins register one too. Here nothing imports torch before it is asked.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from accelnb.devices.precision_support import Ability, abilities
from accelnb.errors import AccelnbError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Device:
    """One kind of device.

    Attributes
    ----------
    name : str
        Of the option ``--device``.
    type : str
        As in ``torch.device(type)``.
    backend : str
        Of a process group whose ranks compute on it, as ``init_process_group`` takes it. With
        an accelerator, collectives on CPU tensors go through gloo.
    kind : str
        What Accelerate calls several processes on it (`DistributedType`).
    precisions : tuple of str
        Mixed precision that ranks can train in. What a single card lacks (bf16 before Ampere,
        say) torch reports itself.
    starts : tuple of str
        How a rank process can start, the fastest first: ``fork`` (where a process that was forked
        after ``import torch`` can use the device), ``spawn``, or ``xla`` for torch_xla's own.
    aborts : bool
        Whether its backend can abort a collective that waits. gloo cannot: its connections are
        broken instead.
    shares : str
        Whether several ranks can compute on one device: ``always``, ``asked`` (if the user names
        the device, for it is slower: nccl refuses that, so they use gloo) or ``never``.
    rejoins : bool
        Whether a rank that was lost can be replaced alone. On a TPU all of a slice start together.
    prepared : bool
        Whether the processes of its ranks have to agree on an environment before they start.
    package : str
        What has to be imported beside torch, empty if nothing.
    install : str
        How to get that package.
    files : str
        What the device files in /dev are called, before their number; empty if others count them.
    variable : str
        The environment variable that chooses among the devices of a machine.
    stands_for : str
        Another name under which people ask for it.
    title : str
        What a person calls one.
    called : tuple of str
        Words that are no name of a device here, but mean this one.
    records : bool
        Whether operations are recorded first and computed when they are told to. Tensors then
        have no address, and a broadcast is a sum, which floats do not survive.
    meter : str
        Who tells from outside what a process holds on it: ``nvml``, or empty for nobody.
    resource : str
        What Ray calls it; empty if Ray does not count it.
    run_on : str
        Where and when ranks ran on it; empty if they never did.
    ran_on_one : bool
        Whether that was one such device: ranks on several, and nccl between them, were not run.
    """

    name: str
    type: str
    backend: str
    kind: str
    precisions: tuple[str, ...]
    starts: tuple[str, ...] = ("spawn",)
    aborts: bool = False
    shares: str = "never"
    rejoins: bool = True
    prepared: bool = False
    package: str = ""
    install: str = ""
    files: str = ""
    variable: str = ""
    stands_for: str = ""
    title: str = ""
    called: tuple[str, ...] = ()
    records: bool = False
    meter: str = ""
    resource: str = ""
    run_on: str = ""
    ran_on_one: bool = False

    @property
    def module(self) -> Any:
        """What torch has for this kind of device, e.g. ``torch.cuda``; None without it."""
        import torch

        return getattr(torch, self.type, None)

    def missing(self) -> str | None:
        """Return why its package cannot be used here, None if it can; imports nothing.

        Examples
        --------
        >>> from accelnb.devices import DEVICES
        >>> DEVICES["npu"].missing()
        'the package torch_npu is not installed: pip install torch-npu'
        """
        name = self.package.partition(".")[0]
        if not name or importlib.util.find_spec(name) is not None:
            return None
        return f"the package {name} is not installed: {self.install}"

    def load(self) -> None:
        """Import the package that teaches torch this kind of device.

        Raises
        ------
        AccelnbError
            It is not installed, or does not load.
        """
        if not self.package:
            return
        try:
            importlib.import_module(self.package)
        except (ImportError, OSError, RuntimeError) as error:  # plugins look for their driver
            raise AccelnbError(
                f"device={self.name}: the package {self.package} does not load: {error}; "
                f"{self.install}"
            ) from error

    def is_available(self) -> bool:
        """Return whether torch, in this process, can compute on such a device."""
        if self.module is None:
            return False
        is_there = getattr(self.module, "is_available", None) or self.module.device_count
        return bool(is_there())

    def take(self, local_rank: int) -> torch.device:
        """Make this process compute on its own device of this kind; return that device.

        Raises
        ------
        AccelnbError
            The package does not load, or torch sees no such device in this process.

        Examples
        --------
        >>> from accelnb.devices import DEVICES
        >>> DEVICES["cpu"].take(local_rank=1)
        device(type='cpu')
        """
        import torch

        self.load()
        if self.type == "cpu":
            return torch.device("cpu")
        count = self.module.device_count() if self.module is not None else 0
        if not count:
            raise AccelnbError(
                f"device={self.name}: torch {torch.__version__} sees no {self.title} in this "
                "process; `accelnb env` says what there is and what is wrong with it"
            )
        return self._choose(local_rank % count)

    def _choose(self, index: int) -> torch.device:
        import torch

        if not hasattr(self.module, "set_device"):  # there is only one
            return torch.device(self.type)
        device = torch.device(self.type, index)
        self.module.set_device(device)
        return device

    def is_shared(self, ranks: int) -> bool:
        """Return whether this many ranks on this machine have to share devices."""
        return self.shares == "asked" and ranks > self.module.device_count()

    def backend_for(self, shared: bool) -> str:
        """Return the backend of ranks that have a device each, or share them.

        Examples
        --------
        >>> from accelnb.devices import DEVICES
        >>> DEVICES["cuda"].backend_for(shared=True)
        'gloo'
        """
        return "gloo" if shared and self.shares == "asked" else self.backend

    def why_not(self, precision: str) -> str | None:
        """Return why this process cannot train in a precision on its device, None if it can.

        Examples
        --------
        >>> from accelnb.devices import DEVICES
        >>> DEVICES["mps"].why_not("fp8")
        'mps cannot; choose one of no, fp16, bf16'
        """
        if precision not in self.precisions:
            return f"{self.name} cannot; choose one of {', '.join(self.precisions)}"
        if precision == "bf16" and hasattr(self.module, "is_bf16_supported"):
            return None if self.module.is_bf16_supported() else "this GPU cannot; use fp16"
        if precision == "fp8":
            card, able = self._fp8()
            return None if able.level != "no" else f"this GPU is {card}; fp8 {able.why}; use bf16"
        return None

    def allocated(self) -> int | None:
        """Return the bytes of this process's tensors on its device, None if it cannot be told."""
        if not self._in_use():
            return None
        for name in ("memory_allocated", "current_allocated_memory"):
            if hasattr(self.module, name):
                return getattr(self.module, name)()
        return None

    def empty_cache(self) -> None:
        """Give memory that torch keeps for later back to the device."""
        if self._in_use() and hasattr(self.module, "empty_cache"):
            self.module.empty_cache()

    def synchronize(self) -> None:
        """Wait until the device has done what it was given."""
        if self._in_use() and hasattr(self.module, "synchronize"):
            self.module.synchronize()

    def _fp8(self) -> tuple[str, Ability]:
        """Return what this process's GPU is, and how well it computes in fp8."""
        import torch

        if torch.version.hip:
            name = self.module.get_device_properties().gcnArchName.partition(":")[0]
            return name, abilities("rocm", features=[name])["fp8"]
        version = self.module.get_device_capability()
        name = f"of compute capability {version[0]}.{version[1]}"
        return name, abilities("cuda", version)["fp8"]

    def _in_use(self) -> bool:
        """Whether this process has used such a device; does not begin to."""
        if self.type == "cpu" or self.module is None:
            return False
        in_use = getattr(self.module, "is_initialized", self.module.device_count)
        return bool(in_use())
