"""Models that come divided train as they are, with data divided as their mesh says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ranks import on_ranks
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from accelnb import Accelerator
from accelnb.errors import AccelnbError
from accelnb.utils import ParallelismConfig, TorchTensorParallelConfig


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.tanh(self.up(self.norm(x))))


def made() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Block(), Block(), nn.Linear(8, 3))


def loader() -> DataLoader[Any]:
    draws = torch.Generator().manual_seed(1)
    x, y = torch.randn(24, 8, generator=draws), torch.randn(24, 3, generator=draws)
    return DataLoader(TensorDataset(x, y), batch_size=4)


def grid(**sizes: int) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", tuple(sizes.values()), mesh_dim_names=tuple(sizes))


def divided(kind: str) -> nn.Module:
    """Return a model as a cell of one's own divides it."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import parallel as tp

    model = made()
    if kind == "fsdp":
        for block in model[:2]:
            fully_shard(block)
        return fully_shard(model)
    mesh = {
        "tp": lambda: grid(tp=2),
        "tp without a name": lambda: init_device_mesh("cpu", (2,)),
        "tp on a mesh with data": lambda: grid(dp=2, tp=2),
        "fsdp and tp": lambda: grid(fsdp=2, tp=2),
    }[kind]()
    for block in model[:2]:
        plan = {"up": tp.ColwiseParallel(), "down": tp.RowwiseParallel()}
        tp.parallelize_module(block, mesh["tp"] if mesh.mesh_dim_names else mesh, plan)
    if kind == "fsdp and tp":
        for block in model[:2]:
            fully_shard(block, mesh=mesh["fsdp"])
        fully_shard(model, mesh=mesh["fsdp"])
    return model


def trained(kind: str | None, batches: int) -> Any:
    """Return losses, norms and weights of one epoch, and into how many parts data was divided."""
    accelerator = Accelerator()
    model = divided(kind) if kind else made()
    optimizer: Any = torch.optim.AdamW(model.parameters(), 1e-2, eps=1e-4, foreach=True)
    data = loader()
    if kind is None:
        data = DataLoader(data.dataset, batch_size=4 * batches)
    data, model, optimizer = accelerator.prepare(data, model, optimizer)
    losses, norms = [], []
    for x, y in data:
        with accelerator.accumulate(model):
            loss = F.mse_loss(model(x), y)
            accelerator.backward(loss)
            norms.append(float(accelerator.clip_grad_norm_(model.parameters(), 0.1)))
            optimizer.step()
            optimizer.zero_grad()
        losses.append(float(accelerator.reduce(loss.detach(), "mean")))
    weights = {name: value.tolist() for name, value in accelerator.get_state_dict(model).items()}
    facts = (accelerator.mesh.data_shares, accelerator.is_fsdp2)
    return losses, norms, weights, facts


@pytest.mark.parametrize(
    ("kind", "procs", "facts"),
    [
        ("fsdp", 2, (2, True)),
        ("tp", 2, (1, False)),
        ("tp without a name", 2, (1, False)),
        ("tp on a mesh with data", 4, (2, True)),
        ("fsdp and tp", 4, (2, True)),
    ],
)
def test_a_model_that_the_cell_divided_trains_as_one_process(kind, procs, facts):
    ranks = on_ranks(trained, kind, 1, procs=procs)
    losses, norms, weights, _ = trained(None, facts[0])
    for rank in ranks:
        assert rank[3] == facts
        assert rank[0] == pytest.approx(losses, abs=1e-6)
        assert rank[1] == pytest.approx(norms, abs=1e-6)
    for name, value in weights.items():
        torch.testing.assert_close(
            torch.tensor(ranks[0][2][name]), torch.tensor(value), atol=1e-6, rtol=0, msg=name
        )


def test_a_model_divided_otherwise_than_the_accelerator_asks_is_refused():
    def said():
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import parallel as tp

        texts = []

        def refused(accelerator, model, *before):
            accelerator.prepare(*before) if before else None
            with pytest.raises(AccelnbError) as error:
                accelerator.prepare(model)
            texts.append(str(error.value))

        sharding = ParallelismConfig(dp_shard_size=2)
        refused(Accelerator(parallelism_config=sharding), divided("tp"))
        refused(Accelerator(), divided("tp"), loader())
        odd = made()
        mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=("a", "b"))["b"]
        tp.parallelize_module(odd[2], mesh, tp.ColwiseParallel())
        refused(Accelerator(), odd)
        return texts

    expected = (
        "divided over the mesh tp=2, and the Accelerator has dp_shard=2: give both the same",
        "data is in 1 parts, and loaders were prepared for 2: prepare it before them",
        "a mesh with the dimensions ('a', 'b'): name them pp, dp_replicate, dp_shard",
    )
    for texts in on_ranks(said):
        for text, part in zip(texts, expected, strict=True):
            assert part in text
            assert "\n" not in text


# ---- transformers ----


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """The folder of a small Llama."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("transformers.distributed", reason="this transformers divides no models")
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def llama_trained(folder: str, theirs: dict[str, int] | None, ours: Any = None) -> Any:
    from transformers import LlamaForCausalLM
    from transformers.distributed import DistributedConfig

    accelerator = Accelerator(parallelism_config=ours)
    options = {"distributed_config": DistributedConfig(**theirs)} if theirs else {}
    model = LlamaForCausalLM.from_pretrained(folder, **options)
    optimizer: Any = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model, optimizer = accelerator.prepare(model, optimizer)
    shares, share = accelerator.mesh.data_shares, accelerator.mesh.data_share
    draws = torch.Generator().manual_seed(2)
    losses, norms = [], []
    for _ in range(3):
        ids = torch.randint(0, 128, (4, 16), generator=draws).chunk(shares)[share]
        loss = model(input_ids=ids, labels=ids).loss
        accelerator.backward(loss)
        norms.append(float(accelerator.clip_grad_norm_(model.parameters(), 1.0)))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(accelerator.reduce(loss.detach(), "mean")))
    return losses, norms, shares


@pytest.mark.parametrize(
    ("theirs", "shares"),
    [
        ({"fsdp_size": 2}, 2),
        ({"tp_size": 2}, 1),
        ({"fsdp_size": 2, "tp_size": 2}, 2),
        ({"fsdp_size": 2, "dp_replicate_size": 2}, 4),
    ],
)
def test_a_model_that_transformers_divided_trains_as_one_process(llama, theirs, shares):
    procs = theirs.get("dp_replicate_size", 1) * theirs.get("fsdp_size", 1)
    losses, norms, _ = llama_trained(llama, None)
    for rank in on_ranks(llama_trained, llama, theirs, procs=procs * theirs.get("tp_size", 1)):
        assert rank[0] == pytest.approx(losses, abs=2e-6)
        assert rank[1] == pytest.approx(norms, abs=2e-6)
        assert rank[2] == shares


@pytest.mark.parametrize("options", [{}, {"loss_parallel": True}, {"sequence_parallel": True}])
def test_a_model_of_transformers_is_divided_by_its_own_plan(llama, options):
    handler = TorchTensorParallelConfig(**options)
    ours = ParallelismConfig(tp_size=2, tp_handler=handler)
    losses, norms, _ = llama_trained(llama, None)
    for rank in on_ranks(llama_trained, llama, None, ours):
        assert rank[0] == pytest.approx(losses, abs=2e-6)
        assert rank[1] == pytest.approx(norms, abs=2e-6)
