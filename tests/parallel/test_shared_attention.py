"""Attention over parts of a sequence is the attention of one process, with its gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks
from torch.nn import functional as F

from accelnb import AccelnbError
from accelnb.training.parallel.context_parallel import ring_attention
from accelnb.training.parallel.context_parallel.attention_dispatch import intercept_attention
from accelnb.training.parallel.context_parallel.shared_sequence import WAYS, context_parallel

LENGTH = 16


def some_hidden(heads: int) -> torch.Tensor:
    seen = torch.rand(LENGTH, LENGTH, generator=torch.Generator().manual_seed(3)) > 0.3
    return seen.fill_diagonal_(True)


def padded(heads: int) -> torch.Tensor:
    return (torch.arange(LENGTH) < 11).expand(2, 1, 1, LENGTH)


def bias_of_heads(heads: int) -> torch.Tensor:
    return torch.randn(heads, LENGTH, LENGTH, requires_grad=True)


CASES: list[dict[str, Any]] = [
    {},
    {"is_causal": True},
    {"is_causal": True, "scale": 0.7},
    {"mask": some_hidden},
    {"mask": padded},
    {"mask": bias_of_heads},
    {"key_heads": 2, "enable_gqa": True, "is_causal": True},
    {"key_heads": 1, "enable_gqa": True, "mask": some_hidden},
    {"width": 16, "is_causal": True},
    {"transposed": True, "is_causal": True},
    {"dtype": torch.bfloat16, "is_causal": True},
    {"autocast": True},
]


def farthest(
    way: str,
    heads: int = 4,
    key_heads: int = 4,
    width: int = 8,
    mask: Callable[[int], torch.Tensor] | None = None,
    transposed: bool = False,
    dtype: torch.dtype = torch.float32,
    autocast: bool = False,
    **options: Any,
) -> float:
    """How far results and gradients are from those of one process."""
    torch.manual_seed(0)

    def drawn(heads: int, width: int) -> torch.Tensor:
        tensor = torch.randn(2, heads, LENGTH, width, dtype=dtype)
        return tensor.transpose(1, 2).contiguous().transpose(1, 2) if transposed else tensor

    tensors = [drawn(heads, 8), drawn(key_heads, 8), drawn(key_heads, width)]
    weights = torch.randn(2, heads, LENGTH, width)
    attn_mask = mask(heads) if mask else None

    def computed(tensors: list[torch.Tensor], weights: torch.Tensor) -> list[torch.Tensor]:
        given = [tensor.clone().requires_grad_() for tensor in tensors]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            result = F.scaled_dot_product_attention(*given, attn_mask=attn_mask, **options)
        (result.float() * weights).sum().backward()
        return [result.detach(), *(tensor.grad for tensor in given)]

    expected = computed(tensors, weights)
    bias = attn_mask.grad.clone() if attn_mask is not None and attn_mask.requires_grad else None
    if bias is not None:
        attn_mask.grad = None
    rank, ranks = dist.get_rank(), dist.get_world_size()
    part = slice(rank * LENGTH // ranks, (rank + 1) * LENGTH // ranks)
    with context_parallel(way, dist.group.WORLD, "cpu"):
        got = computed([tensor[:, :, part] for tensor in tensors], weights[:, :, part])
    differences = [(a[:, :, part] - b).abs().max() for a, b in zip(expected, got, strict=True)]
    if bias is not None:
        dist.all_reduce(attn_mask.grad)
        differences.append((bias - attn_mask.grad).abs().max())
    return max(map(float, differences))


def all_cases(ways: list[str]) -> list[tuple[str, dict[str, Any], float]]:
    ring_attention.ROWS_AT_ONCE = 3
    return [
        (way, {k: str(v) for k, v in case.items()}, farthest(way, **case))
        for way in ways
        for case in CASES
    ]


@pytest.mark.parametrize("procs", [2, 4])
def test_each_way_computes_what_one_process_does(procs):
    for found in on_ranks(all_cases, list(WAYS), procs=procs):
        for way, case, difference in found:
            is_bf16 = "dtype" in case or "autocast" in case
            assert difference < (0.02 if is_bf16 else 5e-6), (way, case)


def refusals() -> list[str]:
    said = []

    def refused(way: str, shape: tuple[int, ...], keys: int = 8, **options: Any) -> None:
        query, key = torch.zeros(shape), torch.zeros(*shape[:-2], keys, 8)
        buffer = torch.zeros(LENGTH)
        try:
            with context_parallel(way, dist.group.WORLD, "cpu", [buffer], [0]):
                F.scaled_dot_product_attention(query, key, key, **options)
        except AccelnbError as error:
            said.append(str(error))
        assert len(buffer) == LENGTH

    refused("allgather", (1, 2, 8, 8), attn_mask=torch.ones(8, 8))
    refused("heads", (1, 2, 8, 8), attn_mask=torch.ones(8, LENGTH))
    refused("heads", (1, 3, 8, 8))
    refused("allgather", (1, 2, 8, 8), keys=5)
    refused("heads", (1, 2, 6, 8), keys=6)
    refused("alltoall", (1, 2, 8, 8), dropout_p=0.1)
    only_here = torch.ones(8, 8) if dist.get_rank() == 1 else None  # padding of the last part
    refused("allgather", (1, 2, 8, 8), attn_mask=only_here)
    return said


def test_what_is_not_of_the_whole_sequence_is_refused_in_one_line_on_all_ranks():
    results = on_ranks(refusals)
    assert "rank 1 cannot compute attention of its part" in results[0][-1]
    for said in results:
        assert [line.split(":")[0] for line in said] == [
            "context parallel",
            "sequence parallel",
            "sequence parallel",
            "context parallel",
            "context parallel",
            "cp_comm_strategy=alltoall",
            "context parallel",
        ]
        assert "give the whole one, (..., 16, 16)" in said[0]
        assert "3 heads are not divided by 2 ranks: use cp=2" in said[2]
        assert not any("\n" in line for line in said)


def compiled(ways: list[str]) -> list[float]:
    """How far a compiled function is from the eager one, in and out of blocks in turn."""
    intercept_attention("cpu")  # as preparing a model does
    torch.manual_seed(0)
    whole = [torch.randn(1, 4, LENGTH, 8) for _ in range(3)]
    rank, ranks = dist.get_rank(), dist.get_world_size()
    part = slice(rank * LENGTH // ranks, (rank + 1) * LENGTH // ranks)

    def attended(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(1.5 * q, k, v, is_causal=True)

    expected, found = attended(*whole), []
    fast = torch.compile(attended, backend="aot_eager")
    for way in ways:
        found.append(float((fast(*whole) - expected).abs().max()))
        with context_parallel(way, dist.group.WORLD, "cpu"):
            result = fast(*(tensor[:, :, part] for tensor in whole))
        found.append(float((result - expected[:, :, part]).abs().max()))
    return found


def test_compiled_attention_is_of_the_whole_sequence_in_a_block_and_only_there():
    for found in on_ranks(compiled, list(WAYS)):
        assert max(found) < 1e-6, found
