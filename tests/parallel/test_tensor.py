"""Tensor and sequence parallelism train as one process does, and refuse what cannot be right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ranks import on_ranks
from torch import nn
from torch.nn import functional as F

from accelnb import Accelerator
from accelnb.errors import AccelnbError
from accelnb.utils import ParallelismConfig, TorchTensorParallelConfig

BLOCKS = {f"blocks.*.{name}": "colwise" for name in ("query", "key", "value", "up")}
BLOCKS |= {f"blocks.*.{name}": "rowwise" for name in ("out", "down")}
COMPILED = {"compiler": "aot_eager"}
ALL = BLOCKS | {"embed": "embedding_rowwise", "head": "colwise_gather_output"}


class Block(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.heads = 4
        self.norm_1, self.norm_2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.query, self.key, self.value = (nn.Linear(32, 32) for _ in range(3))
        self.out, self.up, self.down = nn.Linear(32, 32), nn.Linear(32, 64), nn.Linear(64, 32)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm_1(x)
        parts = (layer(y) for layer in (self.query, self.key, self.value))
        heads = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts]
        mixed = F.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.down(F.gelu(self.up(self.norm_2(x)))))


class Net(nn.Module):
    def __init__(self, tied: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(64, 32, padding_idx=40), nn.Embedding(16, 32)
        self.blocks = nn.ModuleList(Block(dropout) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 64, bias=False)
        if tied:
            self.head.weight = self.embed.weight
            nn.init.normal_(self.embed.weight, std=0.1)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens) + self.places(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def made(**model: Any) -> nn.Module:
    torch.manual_seed(0)
    return Net(**model)


def trained(
    config: ParallelismConfig | None = None, adam: bool = False, compiler: Any = None, **model: Any
) -> Any:
    """Return the losses, norms and weights of six steps, and what each rank has of the weights."""
    accelerator = Accelerator(parallelism_config=config, dynamo_backend=compiler)
    net = made(**model) if accelerator.tensor_parallel_rank == 0 else Net(**model)
    if adam:
        optimizer: Any = torch.optim.AdamW(net.parameters(), 1e-2, eps=1e-4, foreach=True)
    else:
        optimizer = torch.optim.SGD(net.parameters(), 0.5, momentum=0.9)
    net, optimizer = accelerator.prepare(net, optimizer)
    draws = torch.Generator().manual_seed(1)
    mesh, losses, norms, own = accelerator.mesh, [], [], []
    for step in range(6):
        batch = torch.randint(64, (8, 17), generator=draws)
        torch.manual_seed(100 * step + mesh.data_share)
        tokens = batch.chunk(mesh.data_shares)[mesh.data_share]
        logits = net(tokens[:, :-1])
        with accelerator.loss_parallel():
            loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        accelerator.backward(loss)
        norms.append(float(accelerator.clip_grad_norm_(net.parameters(), 0.4)))
        optimizer.step()
        optimizer.zero_grad()
        own.append(loss.item())
        losses.append(float(accelerator.reduce(loss.detach(), "mean")))
    held = sum(getattr(p, "to_local", lambda p=p: p)().numel() for p in net.parameters())
    weights = accelerator.get_state_dict(net)
    return losses, norms, {name: value.tolist() for name, value in weights.items()}, held, own


def on(procs: int, adam: bool = False, model: Any = None, handler: Any = None, **sizes: int) -> Any:
    config = ParallelismConfig(**sizes, tp_handler=TorchTensorParallelConfig(**handler))
    return on_ranks(trained, config, adam, **(model or {}), procs=procs)


def assert_equal(ranks: Any, one: Any) -> None:
    """Assert that ranks trained as one process did, which has all of the batch."""
    for rank in ranks:
        assert rank[0] == pytest.approx(one[0], abs=1e-6)
        assert rank[1] == pytest.approx(one[1], abs=1e-6)
    whole = ranks[0][2]
    assert whole.keys() == one[2].keys()
    for name, value in one[2].items():
        torch.testing.assert_close(
            torch.tensor(whole[name]), torch.tensor(value), atol=1e-6, rtol=0, msg=name
        )


@pytest.mark.parametrize(
    ("procs", "sizes", "handler", "adam", "model"),
    [
        (2, {"tp_size": 2}, {"plan": BLOCKS}, True, {}),
        (2, {"tp_size": 2}, {"plan": ALL, "loss_parallel": True}, False, {"tied": True}),
        (2, {"tp_size": 2}, {"plan": ALL, "sequence_parallel": True}, False, COMPILED),
        (4, {"tp_size": 4}, {"plan": ALL, "sequence_parallel": True}, False, {}),
        (4, {"tp_size": 2, "dp_shard_size": 2}, {"plan": ALL}, True, {"tied": True}),
        (
            4,
            {"tp_size": 2, "dp_replicate_size": 2},
            {"plan": ALL, "sequence_parallel": True, "loss_parallel": True},
            False,
            {},
        ),
    ],
)
def test_a_model_divided_over_ranks_trains_as_one_process(procs, sizes, handler, adam, model):
    ranks = on(procs, adam, model, handler, **sizes)
    one = trained(None, adam, **model)
    assert_equal(ranks, one)
    if handler["plan"] is ALL:
        assert ranks[0][3] < 0.6 * one[3]


def test_dropout_is_the_same_on_tensor_parallel_ranks_and_differs_over_data():
    def twice(config):
        return [trained(config, dropout=0.1) for _ in range(2)]

    config = ParallelismConfig(
        tp_size=2, dp_shard_size=2, tp_handler=TorchTensorParallelConfig(plan=ALL)
    )
    ranks = on_ranks(twice, config, procs=4)
    for first, again in ranks:
        assert first == again
        assert first[1] == ranks[0][0][1]  # the norm of all gradients
    own = [first[4] for first, _ in ranks]
    assert own[0] == own[1] != own[2] == own[3]


class HeadNorms(nn.Module):
    """Attention as Qwen3's: the heads of queries are normed, and keys have half as many heads."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.num_key_value_heads = 4, 2
        self.q_proj, self.o_proj = nn.Linear(16, 32), nn.Linear(32, 16)
        self.k_proj, self.v_proj = nn.Linear(16, 16), nn.Linear(16, 16)
        self.q_norm = nn.RMSNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        split = {
            self.num_heads: [self.q_proj],
            self.num_key_value_heads: [self.k_proj, self.v_proj],
        }
        q, k, v = (
            layer(x).view(*x.shape[:2], heads, 8).transpose(1, 2)
            for heads, layers in split.items()
            for layer in layers
        )
        mixed = F.scaled_dot_product_attention(self.q_norm(q), k, v, enable_gqa=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class WithOwnPlan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = HeadNorms()
        nn.init.uniform_(self.self_attn.q_norm.weight)
        self.self_attn.q_proj.weight.requires_grad_(False)
        self.self_attn._tp_plan = {
            **dict.fromkeys(("q_proj", "k_proj", "v_proj"), "colwise"),
            "q_norm": "replicated_with_grad_allreduce",
            "o_proj": "rowwise",
            "not_in_this_one": "colwise",
        }

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.self_attn(x)


def gradients_of_own_plan(config: ParallelismConfig | None = None) -> Any:
    accelerator = Accelerator(parallelism_config=config)
    torch.manual_seed(0)
    model = accelerator.prepare(WithOwnPlan())
    for _ in range(2):  # gradients add up
        accelerator.backward(model(torch.linspace(-1, 1, 160).view(2, 5, 16)).square().mean())
    return {
        name: p.grad if p.grad is None else getattr(p.grad, "full_tensor", lambda p=p: p.grad)()
        for name, p in model.named_parameters()
    }


def test_the_plan_that_parts_of_a_model_have_is_used_and_norms_of_heads_are_summed():
    one = gradients_of_own_plan()
    for rank in on_ranks(gradients_of_own_plan, ParallelismConfig(tp_size=2)):
        for name, gradient in one.items():
            torch.testing.assert_close(rank[name], gradient, atol=1e-7, rtol=0, msg=name)
    assert one["self_attn.q_proj.weight"] is None


class Fused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads, self.qkv = 4, nn.Linear(32, 96)


def unnormed() -> nn.Module:
    model = WithOwnPlan()
    del model.self_attn._tp_plan["q_norm"]
    return model


def three_heads() -> nn.Module:
    model = WithOwnPlan()
    model.self_attn.num_key_value_heads = 3
    return model


# What is wrong: a model, the handler's options, and a part of what is said.
REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (made, {}, "tensor parallelism needs a plan, and Net has none"),
    (made, {"plan": {"blocks.*.upp": "colwise"}}, "'blocks.*.upp' names no module"),
    (made, {"plan": {"blocks.*.up": "colwize"}}, "'colwize' is no style: choose one of colwise"),
    (lambda: nn.Sequential(nn.Linear(4, 3)), {"plan": {"0": "colwise"}}, "whose out_features is 3"),
    (lambda: nn.Sequential(nn.GELU()), {"plan": {"0": "colwise"}}, "0 is a GELU, and colwise"),
    (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))),
        {"plan": {"0": "colwise"}},
        "the weight of 0 is computed from others",
    ),
    (three_heads, {}, "cannot divide the 3 num_key_value_heads of self_attn"),
    (unnormed, {}, "add 'self_attn.q_norm': 'replicated_with_grad_allreduce'"),
    (Fused, {"plan": {"qkv": "colwise"}}, "queries, keys and values at once"),
    (
        lambda: nn.TransformerEncoderLayer(8, 2),
        {"plan": {"self_attn.out_proj": "rowwise"}},
        "within nn.MultiheadAttention",
    ),
    (
        lambda: made(tied=True),
        {"plan": {"embed": "embedding_rowwise"}},
        "head is not in the plan: add it, or leave both out",
    ),
    (
        lambda: made(tied=True),
        {"plan": ALL | {"embed": "embedding_colwise"}},
        "embed.weight and head.weight are one weight",
    ),
    (made, {"plan": BLOCKS, "loss_parallel": True}, "the tensor-parallel plan has no head"),
    (
        made,
        {"plan": {"embed": "embedding_rowwise"}, "sequence_parallel": True},
        "names no layer of repeated blocks",
    ),
]


def test_what_cannot_be_divided_is_said_in_one_line_and_nothing_has_changed():
    def said():
        texts = []
        for make, options, _ in REFUSED:
            handler = TorchTensorParallelConfig(**options)
            accelerator = Accelerator(
                parallelism_config=ParallelismConfig(tp_size=2, tp_handler=handler)
            )
            model = make()
            before = dict(model.named_parameters())
            with pytest.raises(AccelnbError) as refused:
                accelerator.prepare(model)
            assert all(p is before[name] for name, p in model.named_parameters())
            texts.append(str(refused.value))
        return texts

    for texts in on_ranks(said):
        for text, (_, _, expected) in zip(texts, REFUSED, strict=True):
            assert expected in text
            assert "\n" not in text


def test_sequences_that_ranks_cannot_divide_are_refused():
    def said():
        handler = TorchTensorParallelConfig(plan=ALL, sequence_parallel=True)
        config = ParallelismConfig(tp_size=2, tp_handler=handler)
        model = Accelerator(parallelism_config=config).prepare(made())
        with pytest.raises(AccelnbError, match="cannot divide sequences of 5: pad them"):
            model(torch.zeros(1, 5, dtype=torch.long))
        return True

    assert on_ranks(said) == [True, True]
