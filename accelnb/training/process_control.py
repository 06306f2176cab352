"""What a process does among the others: who it is, who goes first, who runs what."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from accelnb.errors import AccelnbError
from accelnb.training import whereabouts
from accelnb.training.enums import DistributedType


class ProcessControl:
    """Process control for a class that knows its place among the processes.

    Attributes
    ----------
    device : torch.device
        Where this process computes.
    distributed_type : DistributedType
        How the processes work together.
    num_processes : int
        How many there are: the world size.
    process_index : int
        This process's number: its rank.
    local_process_index : int
        Its number on this machine: its local rank.
    """

    device: torch.device
    distributed_type: DistributedType
    num_processes: int
    process_index: int
    local_process_index: int

    @property
    def use_distributed(self) -> bool:
        """Whether there are several processes."""
        return self.distributed_type != DistributedType.NO and self.num_processes > 1

    @property
    def is_main_process(self) -> bool:
        """Whether this is rank 0."""
        return self.process_index == 0

    @property
    def is_local_main_process(self) -> bool:
        """Whether this is local rank 0 of its machine."""
        return self.local_process_index == 0

    @property
    def is_last_process(self) -> bool:
        """Whether this is the highest rank."""
        return self.process_index == self.num_processes - 1

    def wait_for_everyone(self) -> None:
        """Wait until every process has called this."""
        if not self.use_distributed:
            return
        # Names the device, or nccl guesses it and warns.
        index = self.device.index
        whereabouts.collective()
        dist.barrier(device_ids=None if index is None else [index])

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print once per machine."""
        if self.is_local_main_process:
            print(*args, **kwargs)

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Let the main process run a block before the others, as for a download.

        Examples
        --------
        >>> from accelnb import Accelerator
        >>> accelerator = Accelerator()
        >>> with accelerator.main_process_first():
        ...     data = "downloaded by the main process, found by the others"
        """
        with self._first(self.is_main_process):
            yield

    @contextmanager
    def local_main_process_first(self) -> Iterator[None]:
        """Let one process of each machine run a block before the others there."""
        with self._first(self.is_local_main_process):
            yield

    @contextmanager
    def _first(self, goes_first: bool) -> Iterator[None]:
        if not goes_first:
            self.wait_for_everyone()
        try:
            yield
        finally:  # also if it fails, or the others would wait for ever
            if goes_first:
                self.wait_for_everyone()

    def on_main_process(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Make a function do nothing on other processes than the main one.

        Examples
        --------
        >>> from accelnb import PartialState
        >>> state = PartialState()
        >>> @state.on_main_process
        ... def announce():
        ...     print("said once")
        >>> announce()
        said once
        """
        return self._only_if(self.is_main_process, function)

    def on_local_main_process(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Make a function do nothing but on one process of each machine."""
        return self._only_if(self.is_local_main_process, function)

    def on_last_process(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Make a function do nothing but on the highest rank."""
        return self._only_if(self.is_last_process, function)

    def on_process(
        self, function: Callable[..., Any] | None = None, process_index: int | None = None
    ) -> Callable[..., Any]:
        """Make a function do nothing but on rank `process_index`."""
        if function is None:
            return functools.partial(self.on_process, process_index=process_index)
        return self._only_if(self.process_index == process_index, function)

    def on_local_process(
        self, function: Callable[..., Any] | None = None, local_process_index: int | None = None
    ) -> Callable[..., Any]:
        """Make a function do nothing but on local rank `local_process_index` of each machine."""
        if function is None:
            return functools.partial(self.on_local_process, local_process_index=local_process_index)
        return self._only_if(self.local_process_index == local_process_index, function)

    def _only_if(self, runs_here: bool, function: Callable[..., Any]) -> Callable[..., Any]:
        if runs_here or not self.use_distributed:
            return function

        @functools.wraps(function)
        def do_nothing(*_: Any, **__: Any) -> None:
            return None

        return do_nothing

    @contextmanager
    def split_between_processes(self, inputs: Any, apply_padding: bool = False) -> Iterator[Any]:
        """Give each process its part of `inputs`, the first ones one more where it does not divide.

        An Accelerator gives the processes that compute on the same data, as those of one
        tensor-parallel group, the same part.

        Parameters
        ----------
        inputs
            A list, tuple, tensor, array or ``datasets.Dataset``, or a dict of such of one
            length. It is not changed.
        apply_padding
            Repeat the last element, so that every process has as many; drop what is too much
            after a gather.

        Raises
        ------
        AccelnbError
            The values of a dict have different lengths.

        Examples
        --------
        >>> from accelnb import PartialState
        >>> with PartialState().split_between_processes(["a", "b", "c"]) as mine:
        ...     print(mine)
        ['a', 'b', 'c']
        """
        yield self._part(inputs, apply_padding) if self._parts[0] > 1 else inputs

    @property
    def _parts(self) -> tuple[int, int]:
        """Into how many parts work is split, and which is this process's."""
        return self.num_processes, self.process_index

    def _part(self, inputs: Any, apply_padding: bool) -> Any:
        if isinstance(inputs, dict):
            lengths = {name: len(value) for name, value in inputs.items()}
            if len(set(lengths.values())) > 1:
                raise AccelnbError(f"the values to split have different lengths: {lengths}")
            return {name: self._part(value, apply_padding) for name, value in inputs.items()}
        parts, place = self._parts
        each, extra = divmod(len(inputs), parts)
        start = place * each + min(place, extra)
        end = start + each + (place < extra)
        missing = math.ceil(len(inputs) / parts) - (end - start)
        padding = missing if apply_padding and len(inputs) else 0
        if hasattr(inputs, "select") and not isinstance(inputs, torch.Tensor):  # of `datasets`
            return inputs.select([*range(start, end), *[len(inputs) - 1] * padding])
        part, last = inputs[start:end], inputs[-1:]
        if not padding:
            return part
        if isinstance(inputs, torch.Tensor):
            return torch.cat([part, *[last] * padding])
        if isinstance(inputs, list | tuple):
            return part + last * padding  # pyright: ignore[reportOperatorIssue]
        import numpy

        return numpy.concatenate([part, *[last] * padding])
