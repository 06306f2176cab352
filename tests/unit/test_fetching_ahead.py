"""The weights of the next block are fetched while the current one computes."""

from __future__ import annotations

import copy
import os
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from accelnb import disk_offload
from accelnb.big_model.weights_maps import OffloadedWeightsLoader

_PATIENCE = 20.0  # seconds
_NAME = "accelnb-fetching-ahead"


class Reads(OffloadedWeightsLoader):
    """Weights in files; notes in which thread each is read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(save_folder=folder)
        self.threads: dict[str, str] = {}
        self.broken = ""

    def __getitem__(self, key: str) -> torch.Tensor:
        self.threads[key] = threading.current_thread().name
        if key == self.broken:
            raise OSError(f"cannot read {key}")
        return super().__getitem__(key)

    def ahead(self) -> set[str]:
        return {key for key, name in self.threads.items() if name == _NAME}


class Blocks(nn.Module):
    """Blocks of 1 MiB, called in an order that can be changed, with something done between."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(512, 512, bias=False) for _ in range(count))
        self.order = list(range(count))
        self.between = lambda place: None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for place, number in enumerate(self.order):
            x = self.blocks[number](x).tanh()
            self.between(place)
        return x


def on_disk(folder: Path, count: int = 4) -> tuple[Blocks, Blocks, Reads]:
    """Return a model, the same with its weights in files, and what reads them."""
    torch.manual_seed(0)
    whole = Blocks(count)
    model = disk_offload(copy.deepcopy(whole), folder)
    reads = Reads(folder)
    for block in model.blocks:
        block._hf_hook.weights_map.dataset = reads
    return whole, model, reads


def key(number: int) -> str:
    return f"blocks.{number}.weight"


def eventually(condition) -> bool:
    end = time.monotonic() + _PATIENCE
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def fetching_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == _NAME]


@torch.no_grad()
def test_the_next_block_and_no_other_is_read_while_one_computes(tmp_path):
    whole, model, reads = on_disk(tmp_path)
    x = torch.randn(2, 512)
    expected = whole(x)
    torch.testing.assert_close(model(x), expected)
    assert reads.ahead() == set()  # the order is not known yet
    reads.threads.clear()
    seen = []

    def between(place: int) -> None:
        # The block is done and the next one has not begun: so the model was still in this one.
        seen.append(place == 3 or eventually(lambda: key(place + 1) in reads.ahead()))
        time.sleep(0.05)
        assert key(place + 2) not in reads.threads

    model.between = between
    torch.testing.assert_close(model(x), expected)
    assert seen == [True] * 4
    assert reads.ahead() == {key(1), key(2), key(3)}
    assert eventually(lambda: not fetching_threads())


@torch.no_grad()
@pytest.mark.parametrize(
    "order", [[3, 2, 1, 0], [0, 2, 3], [0, 0, 1, 1, 2, 3], [2], [], [0, 1, 2, 3, 0, 1, 2, 3]]
)
def test_blocks_in_another_order_get_their_own_weights(tmp_path, order):
    whole, model, _ = on_disk(tmp_path)
    x = torch.randn(2, 512)
    model(x)
    for changed in (order, whole.order, order, order):
        whole.order, model.order = changed, changed
        torch.testing.assert_close(model(x), whole(x))
    assert eventually(lambda: not fetching_threads())


@torch.no_grad()
def test_a_block_that_is_not_called_as_a_rule_is_not_fetched_ahead_again_and_again(tmp_path):
    _, model, reads = on_disk(tmp_path)
    model(torch.randn(2, 512))
    times = 0
    for _ in range(10):
        for order in ([0, 2, 3], [0, 1, 2, 3], [0, 3]):
            model.order = order
            reads.threads.clear()
            model(torch.randn(2, 512))
            eventually(lambda: not fetching_threads())
            times += key(1) in reads.ahead() and 1 not in order
    assert times <= 11


@torch.no_grad()
def test_an_error_comes_out_where_the_block_is_used_and_the_next_pass_is_right(tmp_path):
    whole, model, reads = on_disk(tmp_path)
    x = torch.randn(2, 512)
    model(x)
    done = []
    model.between = done.append
    reads.broken = key(2)
    with pytest.raises(OSError, match=r"cannot read blocks\.2\.weight"):
        model(x)
    assert done == [0, 1]
    assert eventually(lambda: not fetching_threads())
    reads.broken = ""
    torch.testing.assert_close(model(x), whole(x))


def test_gradients_are_those_of_the_whole_model(tmp_path):
    whole, model, _ = on_disk(tmp_path)
    for both in (whole, model):
        both.requires_grad_(False)
    x, y = (torch.ones(2, 512, requires_grad=True) for _ in range(2))
    for _ in range(2):
        whole(x).sum().backward()
        model(y).sum().backward()
    torch.testing.assert_close(y.grad, x.grad)


@torch.no_grad()
def test_weights_that_were_replaced_after_they_were_fetched_are_used(tmp_path):
    whole, model, _ = on_disk(tmp_path)
    x = torch.randn(2, 512)
    model(x)

    def replace(place: int) -> None:
        if place == 0:
            model.blocks[1]._hf_hook.weights_map = {"weight": torch.eye(512)}

    model.between = replace
    result = model(x)
    whole.blocks[1].weight.copy_(torch.eye(512))
    torch.testing.assert_close(result, whole(x))


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_fetches_for_itself(tmp_path):
    _, model, reads = on_disk(tmp_path)
    x = torch.randn(1, 512)
    model(x)
    expected = model(x)
    assert eventually(lambda: not fetching_threads())
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # OpenMP's threads are the parent's
        reads.threads.clear()
        is_right = torch.equal(model(x), expected) and key(3) in reads.ahead()
        os._exit(0 if is_right else 1)
    end = time.monotonic() + _PATIENCE
    while (waited := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < end:
        time.sleep(0.01)
    if waited == (0, 0):
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert waited == (child, 0)


@torch.no_grad()
def test_rows_that_are_looked_up_are_all_that_is_read_of_a_table(tmp_path):
    table = nn.Embedding(200_000, 64)  # 51 MB
    expected = table(torch.tensor([3, 199_999]))
    model = disk_offload(nn.Sequential(table), tmp_path)
    before = resident()
    for _ in range(2):
        torch.testing.assert_close(model(torch.tensor([3, 199_999])), expected)
    hook = model[0]._hf_hook
    hook.pre_forward(model[0])
    model[0](torch.tensor([3, 199_999]))
    assert resident() - before < 25_000_000
    hook.post_forward(model[0], None)


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
