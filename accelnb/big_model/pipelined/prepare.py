"""A model cut into stages by ``torch.distributed.pipelining``, one for each process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from accelnb.big_model.errors import BigModelError
from accelnb.big_model.pipelined.running import Pipeline
from accelnb.big_model.pipelined.splitting import balanced_split_points, check_split_points
from accelnb.training.collective_errors import together
from accelnb.training.pytree import send_to_device
from accelnb.training.state import PartialState


def prepare_pippy(
    model: nn.Module,
    split_points: str | list[str] = "auto",
    no_split_module_classes: list[str] | None = None,
    example_args: tuple[Any, ...] = (),
    example_kwargs: Mapping[str, Any] | None = None,
    num_chunks: int | None = None,
    gather_output: bool = False,
) -> nn.Module:
    """Cut a model into a stage for each process, for inference in a pipeline; return it.

    All processes call it and then the model, with the same arguments as the example has. A batch
    goes through the stages in micro-batches as large as the example; the last is padded, and what
    is too much is cut off the output. The last process has the output, the others None.

    Parameters
    ----------
    model
        On the CPU, one that ``torch.export`` can trace.
    split_points
        Names of the modules that the second stage and those after it begin with; ``auto`` chooses
        them so that stages are about equally large.
    no_split_module_classes
        Names of classes whose modules stay in one stage.
    example_args, example_kwargs
        A micro-batch, to trace the model with.
    num_chunks
        How many micro-batches are on their way at most: by default as many as processes.
    gather_output
        Send the output to all processes.

    Raises
    ------
    BigModelError
        It cannot be cut so. All processes raise it.

    Examples
    --------
    >>> import torch
    >>> from accelnb import prepare_pippy
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    >>> model = prepare_pippy(model, example_args=(torch.ones(1, 2),))  # one process: as it is
    >>> model(torch.ones(3, 2)).shape
    torch.Size([3, 1])
    """
    state = PartialState()
    if num_chunks is not None and num_chunks < 1:
        raise BigModelError(f"num_chunks={num_chunks}: give 1 or more")
    if state.num_processes == 1:
        return model
    args = send_to_device(tuple(example_args), "cpu")
    kwargs = send_to_device(dict(example_kwargs or {}), "cpu")

    def made() -> tuple[list[str], Pipeline]:
        points, stages = split_points, state.num_processes
        if isinstance(points, str):
            points = balanced_split_points(model, points, stages, no_split_module_classes)
        check_split_points(model, points, stages)
        chunks = num_chunks or stages
        return points, Pipeline.of(model, points, args, kwargs, chunks, gather_output)

    points, pipeline = together(made)
    vars(model).update(forward=pipeline, pippy_stage=pipeline.stage, hf_split_points=points)
    return model
