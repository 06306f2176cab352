"""What goes between the ranks: single tensors of any dtype, and objects."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist

from accelnb.devices import records
from accelnb.errors import AccelnbError
from accelnb.training import whereabouts
from accelnb.training.pytree import recursively_apply
from accelnb.training.state import PartialState

# What both gloo and nccl can send. Others (int16, fp8 ...) travel as bytes.
_SENT_AS_THEY_ARE = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128,
    torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool,
}  # fmt: skip

# Torch 2.13 has a new name for it, and warns at the old one.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


def wire_device() -> torch.device:
    """Return where what comes from the CPU can be sent from: the CPU too, if the group can."""
    by_cpu = dist.is_initialized() and "cpu:" in dist.get_backend_config()
    return torch.device("cpu") if by_cpu else PartialState().device


def tensors_in(data: Any) -> list[torch.Tensor]:
    """Return the tensors of a structure, in order.

    Raises
    ------
    TypeError
        Something is neither a tensor nor a structure.
    AccelnbError
        A tensor is sparse, or has no data.
    """
    found: list[torch.Tensor] = []
    recursively_apply(found.append, data, error_on_other_type=True)
    for tensor in found:
        if tensor.layout != torch.strided:
            raise AccelnbError(
                f"a tensor with layout {tensor.layout} cannot go between ranks: call .to_dense()"
            )
        if tensor.is_meta:
            raise AccelnbError("a tensor on the meta device has no data to send to other ranks")
    return found


def with_tensors(data: Any, tensors: Iterable[torch.Tensor]) -> Any:
    """Return the structure with other tensors in the place of its own, in order."""
    remaining = iter(tensors)
    return recursively_apply(lambda _: next(remaining), data)


def all_gather(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensors of all ranks, of one shape, stacked in a new first dimension."""
    sent = _sendable(tensor)
    ranks = dist.get_world_size()
    received = sent.new_empty(ranks * sent.numel())
    whereabouts.collective()
    if sent.numel():
        _all_gather(received, sent)
    return received.view(tensor.dtype).view(ranks, *tensor.shape)


def broadcast(tensor: torch.Tensor, from_process: int) -> torch.Tensor:
    """Return the tensor of rank `from_process`; that of this rank gives shape and dtype."""
    sent = _sendable(tensor)
    if records(sent.device.type):
        # It broadcasts by a sum, to which all ranks but one give zero times what they have. Of
        # bytes that is exact; of floats infinities would become nan.
        sent = sent.view(torch.uint8).clone()  # also on the source: all ranks run one program
    elif from_process != dist.get_rank():
        sent = torch.empty_like(sent)
    whereabouts.collective()
    if sent.numel():
        dist.broadcast(sent, from_process)
    return sent.view(tensor.dtype).view(tensor.shape)


def all_gather_numbers(numbers: list[int]) -> list[list[int]]:
    """Return a list of every rank, each as long as this one."""
    # They come from the CPU and go there: a device would only have to be waited for.
    return all_gather(torch.tensor(numbers, dtype=torch.int64, device=wire_device())).tolist()


def all_gather_objects(value: Any) -> list[Any]:
    """Return an object of every rank.

    Raises
    ------
    AccelnbError
        An object cannot be pickled. Every rank raises it.
    """
    packed = _packed(value)
    received: list[Any] = [None] * dist.get_world_size()
    whereabouts.collective()
    dist.all_gather_object(received, packed)
    for rank, part in enumerate(received):
        _refuse_unpickled(rank, part)
    return [value if part is packed else pickle.loads(part) for part in received]


def broadcast_object(value: Any, from_process: int) -> Any:
    """Return the object of rank `from_process`.

    Raises
    ------
    AccelnbError
        It cannot be pickled. Every rank raises it.
    """
    is_source = dist.get_rank() == from_process
    box = [_packed(value) if is_source else None]
    whereabouts.collective()
    dist.broadcast_object_list(box, from_process)
    _refuse_unpickled(from_process, box[0])
    return value if is_source else pickle.loads(box[0])  # pyright: ignore[reportArgumentType]


def _sendable(tensor: torch.Tensor) -> torch.Tensor:
    """Return what the tensor holds in one dimension, without gradients."""
    flat = tensor.detach().contiguous().view(-1)
    return flat if tensor.dtype in _SENT_AS_THEY_ARE else flat.view(torch.uint8)


def _packed(value: Any) -> bytes | str:
    """Pickle here, not in torch: a rank that fails there leaves the others waiting."""
    try:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # classes raise what they like when they are pickled
        return f"{type(error).__name__}: {error}"


def _refuse_unpickled(rank: int, packed: Any) -> None:
    if isinstance(packed, str):
        raise AccelnbError(f"an object of rank {rank} cannot be sent to the others: {packed}")
