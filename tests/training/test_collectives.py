"""What ranks give each other: tensors, objects, and every sample once for metrics."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch
from ranks import on_ranks

from accelnb import AccelnbError, PartialState
from accelnb.training import collectives
from accelnb.training.accelerator import Accelerator
from accelnb.utils import DataLoaderConfiguration, DistributedOperationException

DTYPES = [
    *("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "complex64", "bool"),
    *("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64"),
]
Pair = namedtuple("Pair", "first second")


def _said(call, *args, **kwargs):
    try:
        return call(*args, **kwargs)
    except AccelnbError as error:
        return f"{type(error).__name__}: {error}"


# ---- gather ----


def _gather_dtypes(names):
    rank = PartialState().process_index
    result = {}
    for name in names:
        given = torch.tensor([[rank, 1]]).to(getattr(torch, name))
        gathered = collectives.gather(given)
        result[name] = (str(gathered.dtype), gathered.to(torch.complex128).real.tolist())
    return result


def test_tensors_of_every_dtype_are_gathered():
    for result in on_ranks(_gather_dtypes, DTYPES, procs=3):
        for name in DTYPES:
            last = 1 if name == "bool" else 2
            assert result[name] == (f"torch.{name}", [[0, 1], [1, 1], [last, 1]])


def _gather_structure():
    rank = PartialState().process_index
    weight = torch.ones(2, requires_grad=True)
    gathered = collectives.gather(
        {
            "pair": Pair([torch.tensor(rank)], (weight * rank,)),
            "transposed": torch.arange(6).view(3, 2).T + 10 * rank,
            "empty": torch.empty(0, 3),
        }
    )
    pair = gathered["pair"]
    shapes = {"loss": pair.first[0].tolist(), "empty": tuple(gathered["empty"].shape)}
    return type(pair).__name__, shapes, gathered["transposed"].tolist(), pair.second[0].grad_fn


def test_a_structure_keeps_its_form_and_scalars_become_rows_and_no_graph_is_kept():
    transposed = [[0, 2, 4], [1, 3, 5], [10, 12, 14], [11, 13, 15]]
    expected = ("Pair", {"loss": [0, 1], "empty": (0, 3)}, transposed, None)
    assert on_ranks(_gather_structure) == [expected] * 2


def test_one_process_gives_what_several_would_without_a_copy():
    tensor = torch.ones(2, 3)
    (same,) = collectives.gather([tensor])
    assert same.data_ptr() == tensor.data_ptr()
    assert collectives.gather(torch.tensor(1.5)).tolist() == [1.5]
    assert collectives.broadcast(tensor) is tensor
    assert collectives.pad_across_processes(tensor) is tensor
    assert collectives.copy_tensor_to_devices(tensor).tolist() == tensor.tolist()
    assert collectives.gather_object("one") == ["one"]
    assert Accelerator().gather_for_metrics({"texts": ["a"], "loss": tensor.sum()}) == {
        "texts": ["a"],
        "loss": tensor.sum().reshape(1),
    }


def test_what_is_no_tensor_is_refused():
    with pytest.raises(AccelnbError, match="not str: objects go with gather_object") as raised:
        collectives.gather({"a": torch.ones(1), "b": "text"})
    assert isinstance(raised.value, TypeError)  # as in Accelerate
    with pytest.raises(AccelnbError, match="to_dense"):
        collectives.gather(torch.eye(2).to_sparse())


# ---- objects ----


def _gather_objects():
    rank = PartialState().process_index
    lists = collectives.gather_object([{"rank": rank}] * rank)
    single = collectives.gather_object({"r": rank})
    bad = [lambda: None] if rank == 1 else ["fine"]
    return lists, single, _said(collectives.gather_object, bad)


def test_lists_of_objects_are_concatenated_and_an_object_that_cannot_be_sent_fails_everywhere():
    for lists, single, failure in on_ranks(_gather_objects, procs=3):
        assert lists == [{"rank": 1}, {"rank": 2}, {"rank": 2}]
        assert single == [{"r": 0}, {"r": 1}, {"r": 2}]
        assert "an object of rank 1 cannot be sent to the others" in failure


def _broadcast_objects():
    rank = PartialState().process_index
    mine = [rank] * (rank + 1)
    same = collectives.broadcast_object_list(mine, from_process=1) is mine
    bad = [lambda: None]
    return (
        mine,
        same,
        *(
            _said(collectives.broadcast_object_list, [*bad], from_process=source)
            for source in (0, 2)
        ),
    )


def test_a_list_of_objects_is_replaced_by_that_of_one_rank():
    for mine, same, unpicklable, no_rank in on_ranks(_broadcast_objects):
        assert (mine, same) == ([1, 1], True)
        assert "an object of rank 0 cannot be sent" in unpicklable
        assert no_rank == "AccelnbError: from_process=2: the ranks are 0 to 1"


# ---- broadcast, copy, reduce ----


def _broadcast(names):
    rank = PartialState().process_index
    given = {name: torch.full((2,), rank).to(getattr(torch, name)) for name in names}
    transposed = torch.full((2, 3), rank).T
    expanded = torch.tensor([rank]).expand(3)
    weight = torch.full((2,), float(rank), requires_grad=True)
    received = collectives.broadcast([given, transposed, expanded, weight], from_process=1)
    in_place = [*given.values(), transposed, weight.detach()]
    return (
        all(bool((tensor.float() == 1).all()) for tensor in [*received[0].values(), *received[1:]]),
        all(bool((tensor.to(torch.float32) == 1).all()) for tensor in in_place),
        weight.requires_grad,
    )


def test_tensors_of_one_rank_come_to_all_and_into_those_that_were_given():
    names = [name for name in DTYPES if name != "complex64"]
    assert on_ranks(_broadcast, names) == [(True, True, True)] * 2


def _copy():
    rank = PartialState().process_index
    tensor = torch.arange(3, dtype=torch.int16).view(1, 3) if rank == 1 else None
    copied = collectives.copy_tensor_to_devices(tensor)
    wrong = [_said(collectives.copy_tensor_to_devices, t) for t in (None, torch.ones(1))]
    return copied.tolist(), str(copied.dtype), *wrong


def test_a_tensor_that_one_rank_has_is_copied_to_all():
    for values, dtype, none, several in on_ranks(_copy):
        assert (values, dtype) == ([[0, 1, 2]], "torch.int16")
        assert "no rank has one" in none
        assert "ranks 0, 1 have one" in several


def _reduce(names):
    rank = PartialState().process_index
    given = {name: torch.tensor([rank, 1]).to(getattr(torch, name)) for name in names}
    before = {name: tensor.clone() for name, tensor in given.items()}
    result = {}
    for reduction in ("sum", "mean", "max", "min", "none"):
        reduced = collectives.reduce(given, reduction)
        result[reduction] = {n: (str(t.dtype)[6:], t.float().tolist()) for n, t in reduced.items()}
    kept = all(torch.equal(before[n].float(), given[n].float()) for n in names)
    return result, kept


def test_reductions_of_every_dtype_leave_their_input_as_it_was():
    names = [name for name in DTYPES if name not in ("complex64", "uint64")]
    values = {"sum": [3, 3], "mean": [1, 1], "max": [2, 1], "min": [0, 1]}
    for rank, (result, kept) in enumerate(on_ranks(_reduce, names, procs=3)):
        assert kept
        for reduction, by_dtype in result.items():
            for name, found in by_dtype.items():
                expected = values.get(reduction, [rank, 1])
                if name == "bool":  # whether any, whether all; the mean is a share
                    clipped = [float(value > 0) for value in expected]
                    expected = [2 / 3, 1] if reduction == "mean" else clipped
                exact = name.startswith(("float", "bfloat")) or reduction != "mean"
                assert found[0] == (name if exact else "float32")
                assert found[1] == pytest.approx(expected)


def _reduce_more():
    rank = PartialState().process_index
    accelerator = Accelerator()
    large = torch.tensor([40000.0], dtype=torch.float16)
    weight = torch.ones(3, 2, requires_grad=True)
    transposed = weight.T * (rank + 1)
    return (
        accelerator.reduce(large, "mean").tolist(),
        accelerator.reduce(torch.tensor([1, 2])).tolist(),
        collectives.reduce(torch.tensor([1, 2]), "sum", scale=0.5).tolist(),
        accelerator.reduce(transposed).tolist(),
        accelerator.reduce(transposed).requires_grad,
        accelerator.reduce(torch.empty(0)).tolist(),
        accelerator.reduce(torch.tensor([1j])).tolist(),
    )


def test_reductions_are_right_at_the_edges():
    expected = ([40000.0], [2, 4], [1.0, 2.0], [[3.0] * 3] * 2, False, [], [2j])
    assert on_ranks(_reduce_more) == [expected] * 2


@pytest.mark.parametrize(
    ("tensor", "reduction", "message"),
    [
        (torch.ones(1), "avg", "reduction=avg: choose one of sum, mean, max, min, none"),
        (torch.tensor([1j]), "max", "reduction=max: not for tensors of complex64"),
        (torch.ones(1, dtype=torch.uint64), "sum", "reduction=sum: not for tensors of uint64"),
    ],
)
def test_a_reduction_that_there_is_not_is_one_clear_line(tensor, reduction, message):
    with pytest.raises(AccelnbError, match=message):
        collectives.reduce(tensor, reduction)


# ---- padding ----


def _pad():
    rank = PartialState().process_index
    weight = torch.ones(1, rank + 1, requires_grad=True)
    padded = collectives.pad_across_processes(
        {"last": weight, "vector": torch.ones(2), "scalar": torch.tensor(3)}, dim=1, pad_index=-1
    )
    padded["last"].sum().backward()
    first = Accelerator().pad_across_processes(torch.full((rank,), True), pad_first=True)
    negative = collectives.pad_across_processes([torch.ones(rank, 2, rank)], dim=-3)[0]
    return (
        padded["last"].tolist(),
        padded["vector"].tolist(),
        first.tolist(),
        tuple(negative.shape),
        weight.grad is not None and weight.grad.tolist(),
    )


def test_tensors_are_padded_to_the_largest_of_all_ranks():
    one, two, three = on_ranks(_pad, procs=3)
    assert one == ([[1, -1, -1]], [1, 1], [False, False], (2, 2, 0), [[1]])
    assert two == ([[1, 1, -1]], [1, 1], [False, True], (2, 2, 1), [[1, 1]])
    assert three == ([[1, 1, 1]], [1, 1], [True, True], (2, 2, 2), [[1, 1, 1]])


def test_a_batch_is_padded_with_its_last_sample_until_it_can_be_divided():
    pad = collectives.pad_input_tensors
    batch = {"x": torch.tensor([[1, 2], [3, 4], [5, 6]])}
    assert pad(batch, 3, 2)["x"].tolist() == [
        *batch["x"].tolist(),
        [5, 6],
    ]
    assert pad(batch, 3, 3)["x"].tolist() == batch["x"].tolist()
    assert pad(batch, 2, 3, dim=1)["x"].tolist()[0] == [1, 2, 2]
    with pytest.raises(AccelnbError, match=r"batch_size=4: a tensor has shape \[3, 2\]"):
        pad(batch, 4, 2)


# ---- the debug mode ----


def _mismatches():
    import os

    os.environ["ACCELERATE_DEBUG_MODE"] = "1"
    accelerator = Accelerator()
    rank = accelerator.process_index
    right = collectives.gather(torch.ones(2)).tolist()
    padded = accelerator.pad_across_processes(torch.ones(rank + 1)).shape[0]
    uneven = accelerator.gather_for_metrics(torch.ones(rank)).tolist()
    return [right, padded, uneven], [
        _said(collectives.gather, {"x": torch.ones(2, rank + 1)}),
        _said(collectives.reduce, torch.ones(2, dtype=[torch.int64, torch.float64][rank])),
        _said(collectives.broadcast, [torch.ones(2)] * (rank + 1)),
        _said(collectives.pad_across_processes, torch.ones([2] * (rank + 1))),
        _said([accelerator.gather, accelerator.reduce][rank], torch.ones(2)),
        _said(collectives.reduce, torch.ones(2), ["sum", "max"][rank]),
    ]


def test_the_debug_mode_names_on_every_rank_what_does_not_fit_together():
    for right, messages in on_ranks(_mismatches):
        assert right == [[1, 1, 1, 1], 2, [1]]
        for message, expected in zip(
            messages,
            (
                "gather: ranks give it what does not fit together: rank 0: {'x': float32[2, 1] on "
                "cpu}; rank 1: {'x': float32[2, 2] on cpu}",
                "reduce(mean): ranks give it what does not fit together: rank 0: int64[2] on cpu; "
                "rank 1: float64[2] on cpu",
                "broadcast(from_process=0): ranks give it what does not fit together: rank 0: "
                "[float32[2] on cpu]; rank 1: [float32[2] on cpu, float32[2] on cpu]",
                "pad_across_processes(dim=0): ranks give it what does not fit together: rank 0: "
                "float32[2] on cpu; rank 1: float32[2, 2] on cpu",
                "ranks make different calls at one time: rank 0: gather; rank 1: reduce(sum)",
                "ranks make different calls at one time: rank 0: reduce(sum); rank 1: reduce(max)",
            ),
            strict=True,
        ):
            assert message == f"DistributedOperationException: {expected}"


def test_the_error_of_the_debug_mode_is_one_of_accelnb():
    assert issubclass(DistributedOperationException, AccelnbError)


# ---- gather_for_metrics ----


class _Counted(torch.utils.data.IterableDataset):
    def __init__(self, n):
        self.n = n

    def __iter__(self):
        return iter(range(self.n))


def _epoch(n, batch_size, options, iterable=False):
    accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(**options))
    data: Any = _Counted(n) if iterable else list(range(n))
    loader = accelerator.prepare(torch.utils.data.DataLoader(data, batch_size=batch_size))
    rounds = []
    for batch in loader:
        rows, texts = accelerator.gather_for_metrics((batch, [str(i) for i in batch.tolist()]))
        assert [str(i) for i in accelerator.gather_for_metrics(batch).tolist()] == texts
        assert rows.tolist() == [int(text) for text in texts]
        rounds.append(rows.tolist())
    return [sample for samples in rounds for sample in samples]


def _epochs(cases):
    return [_epoch(*case) for case in cases]


def test_every_sample_is_gathered_exactly_once():
    cases = [
        (n, batch_size, {"split_batches": split}, iterable)
        for n, batch_size in ((1, 6), (7, 6), (12, 6), (17, 6), (19, 6))
        for split in (False, True)
        for iterable in (False, True)
    ]
    cases += [(n, 3, {"dispatch_batches": dispatch}, True) for n in (5, 10) for dispatch in (0, 1)]
    cases += [(11, 2, {"dispatch_batches": True}, False)]
    for procs in (2, 3):
        for found in on_ranks(_epochs, cases, procs=procs):
            assert [sorted(samples) for samples in found] == [
                list(range(case[0])) for case in cases
            ]


def test_batches_of_different_sizes_are_gathered_whole():
    case = 5, 3, {"even_batches": False}
    assert on_ranks(_epoch, *case) == [[0, 1, 2, 3, 4]] * 2


class _Loader:
    """Has a batch of three samples in hand, of which the last `rank` are repeated."""

    end_of_dataloader = True
    remainder = 3
    batch_samples = 3

    def __init__(self, duplicates):
        self.duplicates = duplicates


def _metrics():
    accelerator = Accelerator()
    rank = accelerator.process_index
    loader = _Loader(duplicates=[0, 3][rank])
    accelerator.gradient_state._add_dataloader(loader)
    mine = [f"{rank}{letter}" for letter in "abc"]
    boxes = [torch.full((i, 2), rank) for i in range(3)]
    gather = accelerator.gather_for_metrics
    tensors = gather(
        {
            "logits": torch.full((3, 2), rank),
            "loss": torch.tensor(float(rank)),
            "tokens": torch.arange(4 + rank),
            "flags": torch.tensor([True] * 3),
        }
    )
    return (
        {name: tensor.tolist() for name, tensor in tensors.items()},
        gather(mine),
        gather({"text": mine, "logits": torch.full((3,), rank), "loss": 0.5 + rank}),
        gather((mine, [rank] * 3), use_gather_object=True),
        [box.tolist() for box in gather(boxes, use_gather_object=True)],
        gather([torch.full((3,), rank), tuple(mine)]),
    )


def test_a_rank_may_have_no_sample_and_what_is_not_of_the_batch_is_whole():
    texts = ["0a", "0b", "0c"]
    for tensors, alone, mixed, pair, boxes, batch in on_ranks(_metrics):
        assert tensors == {
            "logits": [[0, 0]] * 3,
            "loss": [0.0, 1.0],
            "tokens": [0, 1, 2, 3, 0, 1, 2, 3, 4],
            "flags": [True] * 3,
        }
        assert alone == texts
        assert mixed.pop("logits").tolist() == [0, 0, 0]
        assert mixed == {"text": texts, "loss": [0.5, 1.5]}
        assert pair == (texts, [0, 0, 0])
        assert boxes == [[], [[0, 0]], [[0, 0], [0, 0]]]
        assert batch[0].tolist() == [0, 0, 0]
        assert batch[1] == texts


def _of_few_samples():
    accelerator = Accelerator()
    rank = float(accelerator.process_index)
    loader = accelerator.prepare(torch.utils.data.DataLoader(list(range(5)), batch_size=2))
    gather = accelerator.gather_for_metrics
    return [
        (gather(torch.tensor(rank)).tolist(), gather({"loss": rank, "texts": ["a"] * len(batch)}))
        for batch in loader
    ]


def test_ranks_that_the_last_samples_do_not_suffice_for_give_nothing():
    full = [0.0, 1.0], {"loss": [0.0, 1.0], "texts": ["a"] * 4}
    last = [0.0], {"loss": [0.0], "texts": ["a"]}
    assert on_ranks(_of_few_samples) == [[full, last]] * 2


def _unlike():
    accelerator = Accelerator()
    rank = accelerator.process_index
    return (
        _said(accelerator.gather_for_metrics, [torch.ones(2, rank + 1)]),
        _said(accelerator.gather_for_metrics, [torch.ones(1)] * (rank + 1)),
        accelerator.gather_for_metrics(torch.tensor(rank)).tolist(),
    )


def test_metrics_that_do_not_fit_together_fail_on_every_rank_and_nothing_hangs():
    start = "DistributedOperationException: gather_for_metrics: ranks give it what does not fit"
    for shapes, numbers, after in on_ranks(_unlike):
        assert shapes.startswith(start)
        assert "rank 0: [float32[2, 1] on cpu]; rank 1: [float32[2, 2] on cpu]" in shapes
        assert numbers.startswith(start)
        assert after == [0, 1]


def _triggers():
    accelerator = Accelerator()
    seen = [accelerator.check_trigger()]
    if accelerator.process_index == 1:
        accelerator.set_trigger()
    return [*seen, accelerator.check_trigger(), accelerator.check_trigger()]


def test_a_trigger_of_one_rank_is_seen_once_by_all():
    assert on_ranks(_triggers, procs=3) == [[False, True, False]] * 3
