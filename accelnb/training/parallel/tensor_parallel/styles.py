"""How a layer of a tensor-parallel model is divided: torch's styles by words, and two of our own.

Slow to import: `tensor` and `tensor_plan` do so when a model is tensor parallel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
)
from torch.nn import functional as F

from accelnb.errors import AccelnbError

SEQUENCE_DIM = 1


class ReplicatedWithSummedGradients(ParallelStyle):
    """Each rank has the whole layer and applies it to its part of the activations.

    So its gradients are each a part of a sum. Norms of heads that are divided are such layers.
    """

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        for name, parameter in module.named_parameters(recurse=False):
            whole = distribute_tensor(
                parameter.data, device_mesh, [Replicate()], src_data_rank=self.src_data_rank
            )
            module.register_parameter(name, nn.Parameter(whole, parameter.requires_grad))
        module.register_forward_pre_hook(_show_local_parameters)
        module.register_forward_hook(_hide_local_parameters, always_call=True)
        return module


class SequenceParallelNorm(ReplicatedWithSummedGradients):
    """A norm of parts of sequences, which hands on the whole ones."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        super()._apply(module, device_mesh)

        def gather(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> DTensor:
            return _from_parts(output, device_mesh).redistribute(placements=[Replicate()])

        module.register_forward_hook(gather)
        return module


class VocabularyParallel(ParallelStyle):
    """Each rank has the embeddings of a part of the vocabulary; what it returns is whole.

    Torch's ``RowwiseParallel`` does the same by a mask in a DTensor, which torch.compile (2.13)
    cannot trace.
    """

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        assert isinstance(module, nn.Embedding)
        weight = distribute_tensor(
            module.weight.data, device_mesh, [Shard(0)], src_data_rank=self.src_data_rank
        )
        module.register_parameter("weight", nn.Parameter(weight, module.weight.requires_grad))
        rows = module.num_embeddings // device_mesh.size()
        first = rows * device_mesh.get_local_rank()
        padding = module.padding_idx
        if padding is not None:
            padding = padding - first if first <= padding < first + rows else None

        def forward(input: torch.Tensor) -> torch.Tensor:
            rows_here = input - first
            elsewhere = (rows_here < 0) | (rows_here >= rows)
            found = F.embedding(
                rows_here.masked_fill(elsewhere, 0),
                module.weight.to_local(),  # pyright: ignore[reportAttributeAccessIssue]
                padding,
                scale_grad_by_freq=module.scale_grad_by_freq,
            )
            part = found.masked_fill(elsewhere.unsqueeze(-1), 0.0)
            total = DTensor.from_local(part, device_mesh, [Partial()], run_check=False)
            return total.redistribute(placements=[Replicate()]).to_local()

        module.forward = forward
        return module


# What plans call the styles; the words are those of the plans that transformers' models have.
STYLES: dict[str, Callable[[], ParallelStyle | None]] = {
    "colwise": ColwiseParallel,
    "colwise_gather_output": lambda: ColwiseParallel(output_layouts=Replicate()),
    "colwise_rep": lambda: ColwiseParallel(output_layouts=Replicate()),
    "rowwise": RowwiseParallel,
    "rowwise_split_input": lambda: RowwiseParallel(input_layouts=Replicate()),
    "rowwise_rep": lambda: RowwiseParallel(input_layouts=Replicate()),
    "embedding_rowwise": VocabularyParallel,
    "embedding_colwise": lambda: ColwiseParallel(output_layouts=Replicate()),
    "sequence_parallel": lambda: SequenceParallel(use_local_output=True),
    "replicated_with_grad_allreduce": ReplicatedWithSummedGradients,
    "replicate": lambda: None,
}


def divide_sequences(first: nn.Module, last: nn.Module, mesh: DeviceMesh) -> None:
    """Have a stack of layers compute on parts of sequences, from its first to its last layer."""

    def enter(_module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        if not args:
            kwargs = {**kwargs, "hidden_states": _divided(kwargs["hidden_states"], mesh)}
            return args, kwargs
        return (_divided(args[0], mesh), *args[1:]), kwargs

    def leave(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (_whole(output[0], mesh), *output[1:])
        return _whole(output, mesh)

    first.register_forward_pre_hook(enter, with_kwargs=True)
    last.register_forward_hook(leave)


def _divided(sequences: torch.Tensor, mesh: DeviceMesh) -> torch.Tensor:
    length = sequences.shape[SEQUENCE_DIM]
    if length % mesh.size():
        raise AccelnbError(
            f"sequence_parallel: {mesh.size()} tensor-parallel ranks cannot divide sequences of "
            f"{length}: pad them to a multiple of {mesh.size()}"
        )
    whole = DTensor.from_local(sequences, mesh, [Replicate()], run_check=False)
    return whole.redistribute(placements=[Shard(SEQUENCE_DIM)]).to_local()


def _whole(part: torch.Tensor, mesh: DeviceMesh) -> torch.Tensor:
    return _from_parts(part, mesh).redistribute(placements=[Replicate()]).to_local()


def _from_parts(part: torch.Tensor, mesh: DeviceMesh) -> DTensor:
    return DTensor.from_local(part, mesh, [Shard(SEQUENCE_DIM)], run_check=False)


def _show_local_parameters(module: nn.Module, _inputs: Any) -> None:
    """Have the forward pass read plain tensors, whose gradients are parts of sums."""
    for name, parameter in module.named_parameters(recurse=False):
        if isinstance(parameter, DTensor):
            # An attribute is found before a parameter of its name.
            vars(module)[name] = parameter.to_local(grad_placements=[Partial()])


def _hide_local_parameters(module: nn.Module, _inputs: Any, _output: Any) -> None:
    for name in module._parameters:
        vars(module).pop(name, None)
