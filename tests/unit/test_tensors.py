"""Values that go from one process to another arrive as they were."""

from __future__ import annotations

import gc
import os
import pickle

import numpy as np
import pytest
import torch

from accelnb.engine.serialization import shared_memory
from accelnb.engine.serialization.pack import Received, dumps, pickled

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
    torch.float8_e5m2, torch.complex64, torch.bool, torch.uint8, torch.int64,
]  # fmt: skip


def sent(value):
    packed = dumps(value)
    received = Received(packed.content, packed.buffers)
    packed.close()
    return received.load()


@pytest.fixture(params=["memfd", "file"])
def memory(request, monkeypatch, tmp_path):
    if request.param == "file":
        monkeypatch.delattr(os, "memfd_create")
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [0, 3, 100_000])
def test_every_dtype(memory, dtype, count):
    tensor = (torch.arange(count) % 7).to(dtype)
    back = sent(tensor)
    assert back.dtype == dtype
    assert torch.equal(back.view(torch.uint8), tensor.view(torch.uint8))


@pytest.mark.parametrize("size", [4, 400])
def test_layout_and_what_is_shared(size):
    base = torch.randn(size, size)
    view, transposed = base[1:, ::2], base.t()
    back = sent({"base": base, "view": view, "t": transposed, "again": base})
    assert back["again"] is back["base"]
    assert back["t"].stride() == transposed.stride()
    assert torch.equal(back["view"], view)
    back["base"].zero_()
    assert back["view"].abs().sum() == back["t"].abs().sum() == 0
    assert base.abs().sum() > 0


def test_parameters_tied_weights_and_optimizers():
    model = torch.nn.Sequential(torch.nn.Linear(300, 300), torch.nn.Linear(300, 300))
    model[1].weight = model[0].weight
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 300)).sum().backward()
    optimizer.step()
    copy, steps = sent((model, optimizer))
    assert copy[0].weight is copy[1].weight
    assert isinstance(copy[0].weight, torch.nn.Parameter)
    assert copy[0].weight.requires_grad
    assert steps.param_groups[0]["params"][0] is copy[0].weight
    assert list(sent(model.state_dict())) == list(model.state_dict())


class Tagged(torch.Tensor):
    pass


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3.5),
        torch.eye(200).to_sparse(),
        torch.eye(200).to_sparse_csr(),
        torch.quantize_per_tensor(torch.randn(50_000), 0.1, 3, torch.qint8),
        torch.randn(5, requires_grad=True),
        torch.randn(50_000).as_subclass(Tagged),
        torch.empty(3, 4, device="meta"),
    ],
    ids=["scalar", "sparse", "csr", "quantized", "requires_grad", "subclass", "meta"],
)
def test_unusual_tensors(tensor):
    back = sent(tensor)
    assert type(back) is type(tensor)
    assert (back.shape, back.dtype, back.layout) == (tensor.shape, tensor.dtype, tensor.layout)
    assert (back.requires_grad, back.device) == (tensor.requires_grad, tensor.device)
    if tensor.device.type != "meta":
        assert torch.equal(_dense(back.detach()), _dense(tensor.detach()))


def test_arrays_and_containers():
    large = np.random.rand(300, 300)
    value = {"a": [large, large[:, ::3]], "b": (1, {"c": np.float32(2)}), "s": "ü"}
    back = sent(value)
    assert np.array_equal(back["a"][0], large)
    assert np.array_equal(back["a"][1], large[:, ::3])
    assert back["b"] == value["b"]
    back["a"][0][0, 0] = 7.0  # writable


def test_data_frames():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"x": range(20_000), "y": [str(i) for i in range(20_000)]})
    pandas.testing.assert_frame_equal(sent(frame), frame)


def test_memory_is_freed_with_the_last_reference():
    def mapped() -> int:
        with open("/proc/self/maps") as maps:
            return sum("memfd:accelnb" in line for line in maps)

    gc.collect()  # what other tests left
    before, fds = mapped(), len(os.listdir("/proc/self/fd"))
    back = sent(torch.zeros(1 << 20))
    view = back[5:]
    assert mapped() == before + 1
    assert len(os.listdir("/proc/self/fd")) == fds
    del back
    gc.collect()
    assert mapped() == before + 1
    del view
    gc.collect()
    assert mapped() == before


@pytest.mark.parametrize("call", ["ftruncate", "pwrite"])
def test_no_room_is_said_so_and_leaves_nothing(monkeypatch, call):
    fds = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(shared_memory.os, call, _no_room)
    with pytest.raises(MemoryError, match="no room to share 4,000,000 bytes"):
        dumps(torch.zeros(1_000_000))
    assert len(os.listdir("/proc/self/fd")) == fds


def test_buffers_that_end_in_another_file_than_they_begin_in(memory):
    arrays = [np.random.bytes((10 << 20) + odd) for odd in (1, 4097, 77, 0)]
    frozen = [np.frombuffer(array, np.uint8) for array in arrays]  # read-only, as bytes are
    for back, array in zip(sent(frozen), frozen, strict=True):
        assert np.array_equal(back, array)


def test_small_values_in_one_piece():
    tensor = torch.randn(300, 300).bfloat16()
    assert torch.equal(pickle.loads(pickled(tensor)), tensor)


def _no_room(*_: object) -> None:
    raise OSError(28, "No space left on device")


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.dequantize() if tensor.is_quantized else tensor.to_dense()
