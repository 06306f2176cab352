"""`accelnb.show`: which weight is split how over which ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ranks import on_ranks
from torch import nn

import accelnb
from accelnb.cli.memory_estimate import estimate
from accelnb.cli.memory_estimate.model_size import of_model
from accelnb.devices.memory_size import in_words
from accelnb.training.display.picture import Row, folded, picture_of
from accelnb.training.display.picture_html import as_html
from accelnb.training.display.picture_text import as_text


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 10), nn.Linear(10, 6)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs + self.down(self.up(self.norm(inputs)).relu())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 6)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.words.weight
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(torch.arange(weight.numel()).reshape(weight.shape))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        inputs = self.words(tokens)
        for block in self.blocks:
            inputs = block(inputs)
        return self.head(inputs)


def layouts() -> dict[str, Any]:
    """Return for each layout its text, and whether the local tensors are the pieces drawn."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    found: dict[str, Any] = {}

    def look(name: str, net: nn.Module, unsplit: bool = False) -> None:
        picture = picture_of(net)
        weights = dict(net.named_parameters())
        right = True
        for row in picture.rows:
            weight: Any = weights[row.name.replace("-2", "")]
            whole = torch.arange(weight.numel()).reshape(weight.shape).float()
            if not row.pieces or unsplit:
                continue
            for at, spans in enumerate(row.pieces[dist.get_rank()]):
                parts = [whole.narrow(at, begin, end - begin) for begin, end in spans]
                whole = torch.cat(parts, at) if parts else whole.narrow(at, 0, 0)
            local = weight.to_local().detach()
            right &= torch.equal(local, whole)
            right &= local.nbytes * row.count == row.bytes_of(dist.get_rank())
        found[name] = as_text(picture), right

    def sharded(mesh: Any) -> Net:
        net = Net()
        for block in net.blocks:
            fully_shard(block, mesh=mesh)
        return fully_shard(net, mesh=mesh)

    def split() -> Net:
        net = Net()
        for block in net.blocks:
            plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
            parallelize_module(block, of_data_and_tensor["tp"], plan)
        return net

    look("ddp", nn.parallel.DistributedDataParallel(Net()).module)
    of_data_and_tensor = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp_shard", "tp"))
    hsdp = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp_replicate", "dp_shard"))
    look("fsdp", sharded(None))
    look("hsdp", sharded(hsdp))
    net = split()
    look("tp", net)
    for block in (*net.blocks, net):
        fully_shard(block, mesh=of_data_and_tensor["dp_shard"])
    look("fsdp x tp", net)
    net(torch.zeros(1, 2, dtype=torch.long))
    look("after a forward pass", net, unsplit=True)
    return found


@pytest.fixture(scope="module")
def seen() -> list[dict[str, Any]]:
    return on_ranks(layouts, procs=4)


def test_each_rank_has_the_pieces_that_are_drawn(seen):
    wrong = [(r, name) for r, found in enumerate(seen) for name in found if not found[name][1]]
    assert not wrong


def test_all_ranks_draw_the_same(seen):
    for name in seen[0]:
        assert len({found[name][0] for found in seen}) == 1, name


def test_what_is_said_of_each_layout(seen):
    said = {name: text.splitlines() for name, (text, _) in seen[0].items()}
    row = {name: {line.split()[0]: line for line in lines} for name, lines in said.items()}
    assert said["ddp"][0] == "Net on 4 ranks: each rank holds all 1.90 KiB"
    assert "whole  0-3" in row["ddp"]["blocks.0-2.up.weight"]
    assert said["fsdp"][0].startswith("Net on 4 ranks, shard 4: each rank holds ")
    assert "dim 0 in 4 (shard)  0 / 1 / 2 / 3" in row["fsdp"]["blocks.0-2.up.weight"]
    assert row["fsdp"]["words.weight"].endswith("(tied: head.weight)")
    assert "0,2 / 1,3" in row["hsdp"]["blocks.0-2.down.weight"]
    assert "dim 1 in 2 (tp)  0,2 | 1,3" in row["tp"]["blocks.0-2.down.weight"]
    both = row["fsdp x tp"]
    assert "dim 0 in 2 (dp_shard), dim 1 in 2 (tp)  0 | 1 / 2 | 3" in both["blocks.0-2.down.weight"]
    assert "dim 0 in 2 (dp_shard), dim 0 in 2 (tp)  0 / 2 / 1 / 3" in both["blocks.0-2.up.weight"]
    assert "0,1 | 2,3" in both["blocks.0-2.norm.weight"]
    gathered = row["after a forward pass"]["words.weight"]
    assert gathered.endswith("(tied: head.weight; gathered at the moment)")


def shown_by() -> str:
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as printed:
        from IPython.core.getipython import get_ipython

        shell = get_ipython()
        assert shell is not None
        shell.display_pub.publish = lambda data, **more: print(sorted(data))  # pyright: ignore
        accelnb.show(nn.Linear(2, 1))
    return printed.getvalue()


def test_one_rank_shows_it():
    assert on_ranks(shown_by) == ["['text/html', 'text/plain']\n", ""]


def test_blocks_that_are_not_all_alike_keep_their_rows():
    def row(name: str, *notes: str) -> Row:
        return Row(name, 1, (2,), "float32", (), (), {}, 8, notes)

    names = ["a.0.w", "a.1.w", "a.0.b.0", "a.0.b.1", "a.1.b.0"]
    assert [r.name for r in folded(map(row, names))] == ["a.0,1.w", *names[2:]]
    frozen = [row("a.0.w", "frozen"), row("a.1.w"), row("a.2.w")]
    assert [r.name for r in folded(frozen)] == ["a.0.w", "a.1,2.w"]


def test_html_says_in_its_order_what_the_text_says():
    html = as_html(picture_of(Net()))
    assert html.index("Net on 1 rank") < html.index("words.weight") < html.index("tied")
    assert "<script" not in html


def test_what_is_no_model_is_refused():
    with pytest.raises(accelnb.AccelnbError, match=r"give it a torch.nn.Module, not a list"):
        accelnb.show([nn.Linear(2, 1)])  # pyright: ignore[reportArgumentType]


def held_after_a_step() -> tuple[int, int, int, str]:
    """Return what this rank holds of weights, gradients and states, and how it is pictured."""
    accelerator = accelnb.Accelerator()
    net = Net()
    net.tp_plan = {"blocks.*.up": "colwise", "blocks.*.down": "rowwise"}  # pyright: ignore
    net, optimizer = accelerator.prepare(net, torch.optim.AdamW(net.parameters()))
    accelerator.backward(net(torch.zeros(1, 2, dtype=torch.long)).sum())
    optimizer.step()
    states = [v for state in optimizer.state.values() for k, v in state.items() if k != "step"]
    weights: list[Any] = list(net.parameters())
    gradients: list[Any] = [weight.grad for weight in weights]
    sizes = [sum(t.to_local().nbytes for t in held) for held in (weights, gradients, states)]
    return *sizes, as_text(picture_of(net)).partition("\n")[0]  # pyright: ignore[reportReturnType]


def test_ranks_hold_what_the_picture_and_the_estimate_say():
    mesh = {"dp_shard": 2, "tp": 2}
    found = on_ranks(held_after_a_step, procs=4, mesh="dp_shard=2,tp=2", strategy="fsdp")
    said = estimate(of_model(Net(), "net"), procs=4, strategy="fsdp", precision="no", mesh=mesh)
    weights, gradients, states, text = map(list, zip(*found, strict=True))
    where = "Net on 4 ranks, dp_shard 2 x tp 2"
    assert text[0] == f"{where}: each rank holds {_span(weights)} of 1.90 KiB"
    assert gradients == weights
    assert states == [2 * held for held in weights]
    # tp divides the blocks' layers, not what lies between them.
    assert said.parameters <= max(weights) < 1.6 * said.parameters


def _span(sizes: list[int]) -> str:
    return in_words(min(sizes)) if len(set(sizes)) == 1 else f"{min(sizes)} B to {max(sizes)} B"
