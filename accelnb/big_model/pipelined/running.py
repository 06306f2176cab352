"""Batches that go through the stages of a model, micro-batch by micro-batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from accelnb.big_model.errors import BigModelError
from accelnb.training.collective_errors import of_every_rank, together
from accelnb.training.collectives import copy_tensor_to_devices
from accelnb.training.padding import pad_input_tensors
from accelnb.training.pytree import ignorant_find_batch_size, recursively_apply
from accelnb.training.state import PartialState


class Pipeline:
    """The forward pass of a model whose stages are on several processes."""

    def __init__(
        self, stage: Any, out_spec: Any, size: int, chunks: int, gather_output: bool
    ) -> None:
        self.stage = stage
        self._out_spec = out_spec
        self._size = size  # of a micro-batch
        self._chunks = chunks
        self._gather_output = gather_output

    @classmethod
    def of(
        cls,
        model: nn.Module,
        points: list[str],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        chunks: int,
        gather_output: bool,
    ) -> Pipeline:
        """Trace a model and keep this process's stage.

        Raises
        ------
        BigModelError
            torch cannot trace or cut it.
        """
        from torch.distributed.pipelining import SplitPoint, pipeline

        size = batch_size(args, kwargs)
        state = PartialState()
        before = {name: model.get_submodule(name).__dict__.get("forward") for name in points}
        try:
            out_spec = torch.export.export(model, args, kwargs).call_spec.out_spec
            spec = dict.fromkeys(points, SplitPoint.BEGINNING)
            pipe = pipeline(model, mb_args=args, mb_kwargs=kwargs, split_spec=spec)
            stage = pipe.build_stage(state.process_index, device=state.device)
        except Exception as error:
            cause = error.__cause__ or error
            said = str(cause).strip().splitlines() or [type(cause).__name__]
            raise BigModelError(
                f"{type(model).__name__} cannot be cut into stages by "
                f"torch.distributed.pipelining: {said[0]}"
            ) from error
        finally:
            _without_marks(model, before)
        if pipe.num_stages != state.num_processes:
            raise BigModelError(
                f"split_points={points}: they make {pipe.num_stages} stages for "
                f"{state.num_processes} processes: they have to be called one after the other"
            )
        return cls(stage, out_spec, size, chunks, gather_output)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute a batch; return the output on the last process, or on all."""
        state = PartialState()
        count = together(lambda: batch_size(args, kwargs))
        if len(set(of_every_rank(count))) > 1:
            raise BigModelError("the processes called the model with batches of different sizes")
        padded = together(lambda: pad_input_tensors([args, kwargs], count, self._size))
        at_once = self._size * self._chunks
        outputs = [
            self._round(*_cut(padded, slice(start, start + at_once)))
            for start in range(0, count, at_once)
        ]
        parts: list[Any] = [None] * self._out_spec.num_leaves
        if state.is_last_process:
            parts = [torch.cat(each)[:count] for each in zip(*outputs, strict=True)]
        if self._gather_output:
            parts = [copy_tensor_to_devices(part) for part in parts]
        elif not state.is_last_process:
            return None
        return pytree.tree_unflatten(parts, self._out_spec)

    def _round(self, args: Any, kwargs: Any) -> list[torch.Tensor]:
        from torch.distributed.pipelining import ScheduleGPipe

        schedule = ScheduleGPipe(self.stage, batch_size(args, kwargs) // self._size)
        with torch.no_grad():
            out = schedule.step(*args, **kwargs) if self.stage.is_first else schedule.step()
        return [] if out is None else pytree.tree_leaves(out)


def batch_size(args: Any, kwargs: Any) -> int:
    """Return how many samples the arguments of a model have."""
    for value in (*args, *kwargs.values()):
        found = ignorant_find_batch_size(value)
        if found:
            return found
    raise BigModelError("no argument of the model is a tensor with samples")


def _cut(data: Any, rows: slice) -> Any:
    return recursively_apply(lambda tensor: tensor[rows], data)


def _without_marks(model: nn.Module, before: dict[str, Any]) -> None:
    """Take off what torch puts around the forward passes of the modules that stages begin with."""
    for name, forward in before.items():
        its = model.get_submodule(name).__dict__
        its.pop("_orig_forward", None)
        its.pop("forward", None)
        if forward is not None:
            its["forward"] = forward
