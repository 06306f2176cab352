"""`accelnb.show` of a sharded model, in a real JupyterLab."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

_SHARDED = """\
%%distributed --procs 4 --device cpu --strategy none --mesh dp_shard=2,tp=2
import accelnb
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(64), nn.Linear(64, 256), nn.Linear(256, 64)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(1001, 64)
        self.blocks = nn.ModuleList(Block() for _ in range(12))
        self.head = nn.Linear(64, 1001, bias=False)
        self.head.weight = self.words.weight

net = Net()
for block in net.blocks:
    parallelize_module(block, mesh["tp"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
    fully_shard(block, mesh=mesh["dp_shard"])
fully_shard(net, mesh=mesh["dp_shard"])
accelnb.show(net)"""


@pytest.mark.timeout(180)
def test_the_picture_of_a_sharded_model(open_notebook):
    notebook = open_notebook("%load_ext accelnb", _SHARDED, name="show")
    notebook.run_cell(0)
    notebook.run_cell(1)
    shown = notebook.page.locator(".accelnb-model")
    expect(shown).to_have_count(1)
    expect(shown).to_contain_text("Net on 4 ranks, dp_shard 2 x tp 2: each rank holds ")
    row = shown.locator("tr", has_text="blocks.0-11.down.weight")
    assert row.locator("table td").all_inner_texts() == ["0", "1", "2", "3"]
    for theme in ("Light", "Dark"):
        notebook.show_as(theme, 1200)
        shown.scroll_into_view_if_needed()
        notebook.screenshot(f"show-{theme.lower()}")
    assert not notebook.console_errors
