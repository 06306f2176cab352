"""What is said when a rank runs out of memory: who asked for how much, and what holds it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch

from accelnb.devices import Device
from accelnb.devices.memory_size import in_words
from accelnb.engine.process.procfs import resident
from accelnb.training.memory import says_out_of_memory
from accelnb.worker.device_memory import TENSORS, holders
from accelnb.worker.shell import CellError, RankShell

_MOST_SHOWN, _LEAST_SHOWN = 8, 1 << 20
_ASKED = re.compile(r"(?:tried|unable) to allocate ([\d.,]+) ?(bytes|[KMGT]iB)", re.IGNORECASE)
_GPU = re.compile(r"\bGPU (\d+)\b")
_ADVICE = (
    "to need less: a smaller batch, gradient accumulation, bf16, activation checkpointing "
    "(torch.utils.checkpoint), del {name}, or accelnb.utils.find_executable_batch_size"
)


def explain(error: CellError, shell: RankShell, kind: Device, own: torch.device) -> str | None:
    """Return lines about the memory that ran out; None if another thing went wrong.

    The error that IPython keeps is let go, and so is what its frames held.

    Parameters
    ----------
    kind, own
        The rank's device.
    """
    raised = getattr(sys, "last_value", None)  # IPython keeps it
    if not isinstance(raised, MemoryError | torch.OutOfMemoryError) and not (
        isinstance(raised, RuntimeError) and says_out_of_memory(error.evalue)
    ):
        return None
    variables = variables_of(shell.user_ns, raised, shell.compile.label)
    lines = describe(error.evalue, variables, kind, own)
    _forget_last_error(shell)
    return lines


def variables_of(
    namespace: Mapping[str, Any], error: BaseException, cell_of: Callable[[str], str | None]
) -> dict[str, Any]:
    """Return a cell's variables, and those of the notebook's functions that an error came through.

    Parameters
    ----------
    cell_of
        Returns which cell a file name of code stands for, None if it is a real file.
    """
    found = {name: value for name, value in namespace.items() if not name.startswith("_")}
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if code.co_name != "<module>" and cell_of(code.co_filename):
            local = traceback.tb_frame.f_locals
            found |= {f"{name} in {code.co_name}()": value for name, value in local.items()}
        traceback = traceback.tb_next
    return found


def describe(said: str, variables: Mapping[str, Any], kind: Device, own: torch.device) -> str:
    """Return lines about memory that ran out: what was asked for, and who holds what.

    Parameters
    ----------
    said
        The error's text; it names the memory.
    variables
        By the names that the user knows them by.
    kind, own
        The rank's device; the error may be about the memory of the machine instead.

    Examples
    --------
    >>> import torch
    >>> from accelnb.devices import DEVICES
    >>> from accelnb.worker.out_of_memory import describe
    >>> said = "DefaultCPUAllocator: can't allocate: you tried to allocate 8589934592 bytes."
    >>> describe(
    ...     said, {"x": torch.ones(1 << 20)}, DEVICES["cpu"], torch.device("cpu")
    ... ).splitlines()[:2]
    ['8.00 GiB were asked for on cpu, where memory is held by', '  x: tensor 4.00 MiB']
    """
    device = _where(said, own)
    found = holders(variables, device)
    large = [holder for holder in found[:_MOST_SHOWN] if holder.size >= _LEAST_SHOWN]
    lines = [str(holder) for holder in large]
    rest = sum(holder.size for holder in found[len(large) :])
    if rest >= _LEAST_SHOWN:
        lines.append(f"{len(found) - len(large):,} more names: {in_words(rest)}")
    lines += _not_by_name(kind, device, sum(holder.size for holder in found))
    plain = [h.name for h in found if set(h.sizes) == {TENSORS} and h.name.isidentifier()]
    return "\n".join(
        [
            f"{_asked(said)} on {device}, where memory is held by",
            *(f"  {line}" for line in lines),
            _ADVICE.format(name=plain[0] if plain else "NAME"),
        ]
    )


def _forget_last_error(shell: RankShell) -> None:
    """Let go of the error that IPython keeps for a debugger, and of what its frames hold."""
    for name in ("last_exc", "last_value", "last_traceback", "last_type"):
        sys.__dict__.pop(name, None)
    shell.InteractiveTB.tb = shell.last_execution_result = None


def _where(said: str, own: torch.device) -> torch.device:
    """Return the device whose memory ran out; Python and torch's CPU allocator name none."""
    if number := _GPU.search(said):
        return torch.device(own.type, int(number[1]))
    of_device = says_out_of_memory(said) and "CPUAllocator" not in said
    return own if of_device else torch.device("cpu")


def _asked(said: str) -> str:
    asked = _ASKED.search(said)
    if asked is None:
        return "more memory was asked for than there is"
    is_bytes = asked[2].lower() == "bytes"
    size = in_words(int(asked[1].replace(",", ""))) if is_bytes else f"{asked[1]} {asked[2]}"
    return f"{size} were asked for"


def _not_by_name(kind: Device, device: torch.device, named: int) -> list[str]:
    """Return lines about what holds memory on a device beside the cell's variables."""
    if device.type == "cpu":
        return [f"this process in all: {in_words(resident())}"]
    try:
        allocated = kind.module.memory_allocated(device)
        reserved = kind.module.memory_reserved(device)
        free, total = kind.module.mem_get_info(device)
    except (AttributeError, RuntimeError):  # this kind does not tell, or no more
        return []
    sizes = {
        "no name (activations, temporaries, gradient buckets)": allocated - named,
        "torch's allocator, free for this rank": reserved - allocated,
        f"other processes on the device, and {kind.name} itself": total - free - reserved,
    }
    return [f"{what}: {in_words(size)}" for what, size in sizes.items() if size > 0]
