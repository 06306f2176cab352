"""Collectives on nested structures of tensors, and on objects.

Every rank calls them, with structures of one form. Results are on the device of what was given,
and carry no gradients: to differentiate through a collective use
``torch.distributed.nn.functional``. With one process they copy nothing.
"""

from __future__ import annotations

from typing import Any

import torch

from accelnb.errors import AccelnbError
from accelnb.training import communication, debug_mode, gather_for_metrics, padding
from accelnb.training.debug_mode import (
    DistributedOperationException as DistributedOperationException,
)
from accelnb.training.gradients import GradientState
from accelnb.training.padding import pad_across_processes as pad_across_processes
from accelnb.training.padding import pad_input_tensors as pad_input_tensors
from accelnb.training.parallel.mesh import Mesh
from accelnb.training.pytree import TensorInformation
from accelnb.training.reduction import reduce as reduce
from accelnb.training.reduction import reduce_counted
from accelnb.training.state import PartialState

# Processes that differ only in their places along these compute the same results.
_SAME_RESULTS = ("pp", "tp")


def gather(tensor: Any) -> Any:
    """Concatenate the tensors of all ranks, rank 0's first, in every place of a structure.

    Parameters
    ----------
    tensor
        A tensor or a structure of tensors, of shape (n, ...), equal on all ranks; a scalar
        counts as shape (1,). `Accelerator.gather_for_metrics` takes different n.

    Returns
    -------
    gathered
        The structure with tensors of shape (ranks * n, ...), on every rank.

    Raises
    ------
    TypeError
        Something is neither a tensor nor a structure.
    DistributedOperationException
        In the debug mode: the ranks' tensors do not fit together.

    Examples
    --------
    >>> import torch
    >>> from accelnb.utils import gather
    >>> gather({"loss": torch.tensor(0.5)})  # one process
    {'loss': tensor([0.5000])}
    """
    debug_mode.check("gather", tensor)
    tensors = [t.detach() for t in communication.tensors_in(tensor)]
    tensors = [t.reshape(1) if t.ndim == 0 else t for t in tensors]
    if PartialState().num_processes > 1:
        tensors = [communication.all_gather(t).flatten(0, 1) for t in tensors]
    return communication.with_tensors(tensor, tensors)


def gather_object(object: Any) -> list[Any]:
    """Concatenate the lists of all ranks, rank 0's first.

    Parameters
    ----------
    object
        A list of objects that can be pickled; it need not be as long on all ranks. What is not
        a list, tuple or set counts as a list of one.

    Raises
    ------
    AccelnbError
        An object of some rank cannot be pickled. Every rank raises it.

    Examples
    --------
    >>> from accelnb.utils import gather_object
    >>> gather_object(["a", "b"])  # one process
    ['a', 'b']
    """
    debug_mode.check("gather_object")
    several = PartialState().num_processes > 1
    return gather_for_metrics.concatenated(
        communication.all_gather_objects(object) if several else [object]
    )


def broadcast(tensor: Any, from_process: int = 0) -> Any:
    """Give all ranks the tensors of one rank.

    Parameters
    ----------
    tensor
        A tensor or a structure of tensors, of shapes and dtypes that are equal on all ranks. On
        other ranks than `from_process` they are overwritten.

    Returns
    -------
    tensor
        The same tensors.

    Raises
    ------
    TypeError
        Something is neither a tensor nor a structure.
    AccelnbError
        There is no rank `from_process`.
    DistributedOperationException
        In the debug mode: the ranks' tensors do not fit together.
    """
    state = PartialState()
    _refuse_unknown_rank(from_process, state.num_processes)
    if state.num_processes == 1:
        return tensor
    debug_mode.check(f"broadcast(from_process={from_process})", tensor)
    tensors = communication.tensors_in(tensor)
    received = [communication.broadcast(t, from_process) for t in tensors]
    if state.process_index == from_process:
        return communication.with_tensors(tensor, [t.detach() for t in tensors])
    return communication.with_tensors(tensor, map(_overwritten, tensors, received))


def _overwritten(tensor: torch.Tensor, received: torch.Tensor) -> torch.Tensor:
    if 0 in tensor.stride() and tensor.numel() > 1:  # expanded: many elements in one place
        return received
    return tensor.detach().copy_(received)


def broadcast_object_list(object_list: list[Any], from_process: int = 0) -> list[Any]:
    """Replace what is in a list by what is in that of rank `from_process`; return the list.

    Raises
    ------
    AccelnbError
        There is no rank `from_process`, or its objects cannot be pickled.

    Examples
    --------
    >>> from accelnb.utils import broadcast_object_list
    >>> broadcast_object_list(["name of the run"])  # one process
    ['name of the run']
    """
    state = PartialState()
    _refuse_unknown_rank(from_process, state.num_processes)
    debug_mode.check(f"broadcast_object_list(from_process={from_process})")
    if state.num_processes > 1:
        object_list[:] = communication.broadcast_object(list(object_list), from_process)
    return object_list


def copy_tensor_to_devices(tensor: torch.Tensor | None = None) -> torch.Tensor:
    """Give all ranks a tensor that one rank has; the others give None.

    They need not know its shape. It comes to each rank's device.

    Raises
    ------
    AccelnbError
        No rank has a tensor, or several have one. Every rank raises it.

    Examples
    --------
    >>> import torch
    >>> from accelnb.utils import copy_tensor_to_devices
    >>> copy_tensor_to_devices(torch.ones(2))
    tensor([1., 1.])
    """
    state = PartialState()
    mine = None if tensor is None else TensorInformation(tensor.shape, tensor.dtype)
    debug_mode.check("copy_tensor_to_devices")
    known = communication.all_gather_objects(mine) if state.num_processes > 1 else [mine]
    having = {rank: found for rank, found in enumerate(known) if found is not None}
    if len(having) != 1:
        ranks = f"ranks {', '.join(map(str, having))} have one" if having else "no rank has one"
        raise AccelnbError(f"copy_tensor_to_devices: {ranks}; give a tensor on exactly one rank")
    ((source, found),) = having.items()
    if tensor is None:
        sent = torch.empty(found.shape, dtype=found.dtype, device=state.device)
    else:
        sent = tensor.detach().to(state.device)
    return communication.broadcast(sent, source) if state.num_processes > 1 else sent


def wait_for_everyone() -> None:
    """Wait until every process has called this."""
    PartialState().wait_for_everyone()


def _refuse_unknown_rank(from_process: int, ranks: int) -> None:
    if not 0 <= from_process < ranks:
        raise AccelnbError(f"from_process={from_process}: the ranks are 0 to {ranks - 1}")


class CollectiveMethods:
    """The part of `Accelerator` that brings the ranks' values together."""

    mesh: Mesh
    _triggered = False

    def gather(self, tensor: Any) -> Any:
        """Concatenate the tensors of all ranks, rank 0's first; see `accelnb.utils.gather`."""
        return gather(tensor)

    def gather_for_metrics(self, input_data: Any, use_gather_object: bool = False) -> Any:
        """Gather what was computed of the batch in hand, every sample exactly once.

        A prepared loader may repeat samples to give all ranks batches of one size. Those are
        dropped here, on the rank that has them.

        Parameters
        ----------
        input_data
            Tensors or lists with one entry for each sample of the batch, or a tuple or mapping
            of such. Ranks may have different numbers of samples. What is not as long as the batch
            (a loss, a count) is gathered whole, but not of ranks that the last samples did not
            suffice for.
        use_gather_object
            Send tensors as objects, which need not have shapes that fit together: each sample is
            then one entry of a list. Slow.

        Returns
        -------
        gathered
            Tensors of shape (samples of all ranks, ...) and lists of as many entries, rank 0's
            first. Tensors that were sent as objects are on the CPU.

        Raises
        ------
        DistributedOperationException
            Tensors of the ranks differ in more than the first dimension. Every rank raises it.
        AccelnbError
            An object of some rank cannot be pickled. Every rank raises it.

        Examples
        --------
        >>> import torch
        >>> from accelnb import Accelerator
        >>> accelerator = Accelerator()
        >>> data = torch.utils.data.DataLoader(range(9), batch_size=5)
        >>> loader = accelerator.prepare(data)
        >>> [len(accelerator.gather_for_metrics(batch)) for batch in loader]
        [5, 4]
        """
        loader = GradientState().active_dataloader
        debug_mode.check("gather_for_metrics")
        return gather_for_metrics.gathered(input_data, loader, use_gather_object, self.mesh)

    def reduce(self, tensor: Any, reduction: str = "sum", scale: float = 1.0) -> Any:
        """Combine the tensors of all ranks; see `accelnb.utils.reduce`.

        Of ranks that compute the same, those of one tensor-parallel group, the first counts.
        """
        number = self.mesh.size // self.mesh.size_along(*_SAME_RESULTS)
        counts = self.mesh.place_along(*_SAME_RESULTS) == 0
        return reduce_counted(tensor, reduction, scale, number, counts)

    def pad_across_processes(
        self, tensor: Any, dim: int = 0, pad_index: int | float = 0, pad_first: bool = False
    ) -> Any:
        """Pad tensors to the largest size among the ranks; see `pad_across_processes`."""
        return padding.pad_across_processes(tensor, dim, pad_index, pad_first)

    def set_trigger(self) -> None:
        """Tell all ranks something, which they learn at their next `check_trigger`.

        Examples
        --------
        >>> from accelnb import Accelerator
        >>> accelerator = Accelerator()
        >>> accelerator.set_trigger()  # on a rank where the loss is nan, say
        >>> accelerator.check_trigger(), accelerator.check_trigger()
        (True, False)
        """
        self._triggered = True

    def check_trigger(self) -> bool:
        """Return whether any rank called `set_trigger` since the last time; all ranks call this."""
        debug_mode.check("check_trigger")
        triggered = self._triggered
        if PartialState().num_processes > 1:
            triggered = any(said for (said,) in communication.all_gather_numbers([int(triggered)]))
        if triggered:
            self._triggered = False
        return triggered
