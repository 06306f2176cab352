"""Who a process is, who goes first, and how work is divided."""

from __future__ import annotations

import pytest
import torch
from ranks import on_ranks, under_torchrun

from accelnb import AccelnbError
from accelnb.training.state import AcceleratorState, PartialState


def _who():
    state = PartialState()
    return (
        state.process_index, state.local_process_index, state.num_processes, str(state.device),
        str(state.distributed_type), state.is_main_process, state.is_last_process,
        state.use_distributed, state.backend, state.made_group,
    )  # fmt: skip


def test_a_rank_knows_its_place_and_uses_the_group_that_is_there():
    shared = (2, "cpu", "MULTI_CPU")
    assert on_ranks(_who) == [
        (0, 0, *shared, True, False, True, "gloo", False),
        (1, 1, *shared, False, True, True, "gloo", False),
    ]


def test_one_process_is_not_distributed():
    assert _who() == (0, 0, 1, "cpu", "NO", True, True, False, None, False)


def test_torchrun_processes_form_a_group_which_the_end_of_training_ends(tmp_path):
    program = """
import torch
from accelnb import Accelerator, PartialState
state = PartialState()
total = torch.tensor(state.process_index + 1)
torch.distributed.all_reduce(total)
result = [state.distributed_type, state.num_processes, int(total), state.made_group]
Accelerator().end_training()
result.append(torch.distributed.is_initialized())"""
    assert under_torchrun(program, tmp_path) == [["MULTI_CPU", 2, 3, True, False]] * 2


def _parts(padded: bool):
    state = PartialState()
    inputs = {"text": list("abcde"), "number": torch.arange(5), "pair": tuple(range(5))}
    with state.split_between_processes(inputs, apply_padding=padded) as mine:
        part = mine["text"], mine["number"].tolist(), mine["pair"]
    return part, len(inputs["text"])


def test_work_is_split_and_padded_with_the_last_element_and_the_input_is_kept():
    first, second = on_ranks(_parts, False, procs=2)
    assert first == ((["a", "b", "c"], [0, 1, 2], (0, 1, 2)), 5)
    assert second == ((["d", "e"], [3, 4], (3, 4)), 5)
    _, padded = on_ranks(_parts, True, procs=2)
    assert padded == ((["d", "e", "e"], [3, 4, 4], (3, 4, 4)), 5)


def _order_of_entry(path):
    import time

    state = PartialState()
    with state.main_process_first():
        time.sleep(0.2 * state.is_main_process)
        with open(path, "a") as file:
            file.write(str(state.process_index))
    state.wait_for_everyone()
    with open(path) as file:
        return file.read()


def test_the_main_process_goes_first(tmp_path):
    for order in on_ranks(_order_of_entry, str(tmp_path / "order"), procs=3):
        assert order[0] == "0"
        assert sorted(order) == ["0", "1", "2"]


def _main_fails():
    state = PartialState()
    try:
        with state.main_process_first():
            if state.is_main_process:
                raise ValueError("no download")
    except ValueError:
        return "failed"
    return "went on"


def test_if_the_main_process_fails_in_its_block_the_others_do_not_wait_for_ever():
    assert on_ranks(_main_fails) == ["failed", "went on"]


def _decorated():
    state = PartialState()
    said = []
    for decorate, name in (
        (state.on_main_process, "main"),
        (state.on_last_process, "last"),
        (state.on_local_main_process, "local main"),
        (state.on_process(process_index=1), "1"),
        (state.on_local_process(local_process_index=0), "local 0"),
    ):
        decorate(lambda name=name: said.append(name))()
    return said


def test_functions_for_some_processes_do_nothing_on_the_others():
    assert on_ranks(_decorated) == [["main", "local main", "local 0"], ["last", "1"]]


def test_the_precision_is_that_of_the_launch_unless_given(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert AcceleratorState().mixed_precision == "bf16"
    assert AcceleratorState("no").mixed_precision == "no"
    assert AcceleratorState().mixed_precision == "no"  # asked for, not changed


def test_an_unknown_precision_is_one_clear_line():
    with pytest.raises(AccelnbError, match=r"^mixed_precision=half: choose one of no, fp8, fp16"):
        AcceleratorState("half")


def test_the_states_can_be_reset_as_test_suites_of_accelerate_do():
    AcceleratorState("bf16")
    AcceleratorState._reset_state()
    assert AcceleratorState._shared_state == {}
    assert PartialState._shared_state != {}
    AcceleratorState._reset_state(True)
    assert PartialState._shared_state == {}
