"""Seeds, memory, loggers, progress bars, profiles and local SGD."""

from __future__ import annotations

import json
import logging
import random
import sys
import weakref

import numpy
import pytest
import torch
from ranks import on_ranks

from accelnb import AccelnbError
from accelnb.training.configuration import ProfileKwargs
from accelnb.training.local_sgd import LocalSGD
from accelnb.training.logs import get_logger
from accelnb.training.memory import (
    find_executable_batch_size,
    release_memory,
    should_reduce_batch_size,
)
from accelnb.training.profiling import profiled
from accelnb.training.progress import tqdm
from accelnb.training.rng import set_seed, synchronize_rng_states
from accelnb.training.state import PartialState

# ---- random numbers ----


def _numbers():
    return random.random(), numpy.random.rand(), torch.rand(()).item()


def test_a_seed_gives_the_same_numbers_again_in_python_numpy_and_torch():
    set_seed(7)
    first = _numbers()
    set_seed(7)
    assert _numbers() == first


def test_a_seed_that_a_generator_does_not_take_seeds_none():
    set_seed(7)
    first = _numbers()
    set_seed(7)
    with pytest.raises(AccelnbError, match=r"^seed=-1: choose a number from 0 to 4294967295$"):
        set_seed(-1)
    assert _numbers() == first


def _seeded(device_specific):
    set_seed(7, device_specific=device_specific)
    return _numbers()


def test_ranks_draw_the_same_numbers_unless_the_seed_is_device_specific():
    same = on_ranks(_seeded, False)
    own = on_ranks(_seeded, True)
    assert same[0] == same[1] == own[0]
    set_seed(8)
    assert own[1] == _numbers()


def _synchronized():
    rank = PartialState().process_index
    torch.manual_seed(rank)
    generator = torch.Generator().manual_seed(10 + rank)
    synchronize_rng_states(["torch", "generator"], generator)
    return torch.rand(()).item(), torch.rand((), generator=generator).item()


def test_all_ranks_go_on_with_the_random_numbers_of_rank_0():
    first = torch.rand((), generator=torch.Generator().manual_seed(0)).item()
    second = torch.rand((), generator=torch.Generator().manual_seed(10)).item()
    assert on_ranks(_synchronized) == [(first, second)] * 2


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (["torch", "dice"], "^rng_type=dice: choose one of torch, cuda"),
        (["generator"], "^rng_type=generator: pass the generator too"),
    ],
)
def test_a_generator_that_cannot_be_synchronized_is_one_clear_line(kinds, message):
    with pytest.raises(AccelnbError, match=message):
        synchronize_rng_states(kinds)


# ---- memory ----


def test_a_batch_that_does_not_fit_is_made_smaller_and_the_size_is_kept_for_the_next_call():
    tried = []

    @find_executable_batch_size(starting_batch_size=10)
    def train(batch_size, more):
        tried.append(batch_size)
        # Really allocated: the machine has the memory for the smaller ones only.
        return torch.empty(1 if batch_size < 9 else 2**57, dtype=torch.int8).numel() + more

    assert train(more=1) == 2
    assert train(1) == 2
    assert tried == [10, 9, 8, 8]


def test_a_decorator_with_arguments_keeps_its_reduce_function():
    sizes = iter([50, 25])

    @find_executable_batch_size(starting_batch_size=100, reduce_batch_size_fn=lambda: next(sizes))
    def train(batch_size):
        if batch_size > 25:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return batch_size

    assert train() == 25


def test_what_a_failed_try_held_is_free_at_the_next():
    held = []

    @find_executable_batch_size(starting_batch_size=2)
    def train(batch_size):
        if batch_size == 1:
            return held[0]()
        activations = torch.ones(3)
        held.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    assert train() is None


@pytest.mark.parametrize(
    ("error", "reduces"),
    [
        (torch.OutOfMemoryError("HIP out of memory."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED."), True),
        (MemoryError(), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_only_errors_about_memory_reduce_the_batch_size(error, reduces):
    assert should_reduce_batch_size(error) is reduces


def _always_too_large(batch_size):
    raise torch.OutOfMemoryError


def test_a_search_that_cannot_end_says_so():
    with pytest.raises(AccelnbError, match=r"_always_too_large: out of memory with every batch"):
        find_executable_batch_size(_always_too_large, 1)()
    stuck = find_executable_batch_size(_always_too_large, 4, lambda: 4)
    with pytest.raises(AccelnbError, match=r"batch_size=4, and reduce_batch_size_fn returned 4"):
        stuck()


def test_a_function_that_cannot_take_the_batch_size_is_not_called():
    for function, arguments in ((lambda: None, ()), (lambda batch_size: None, (16,))):
        with pytest.raises(AccelnbError, match=r"with the batch size as its first argument"):
            find_executable_batch_size(function)(*arguments)


def test_released_objects_are_gone_once_their_names_are_bound_anew():
    tensor = torch.ones(3)
    alive = weakref.ref(tensor)
    (tensor,) = release_memory(tensor)
    assert tensor is None
    assert alive() is None


# ---- loggers ----


class _Lines(logging.Handler):
    def __init__(self, path):
        super().__init__()
        self.path = path

    def emit(self, record):
        with open(self.path, "a") as file:
            file.write(f"{record.funcName}: {record.getMessage()}\n")


def _logged(path, order):
    state = PartialState()
    name = f"logged-{state.process_index}"
    logging.getLogger(name).addHandler(_Lines(path))
    # Ranks of different levels: nobody waits for one that is silent.
    logger = get_logger(name, log_level="INFO" if state.process_index != 1 else "ERROR")
    if order:
        logger.info("in turn", in_order=True)
    else:
        logger.info("hidden on all but %s", "the main process")
        logger.warning("on all", main_process_only=False)
    state.wait_for_everyone()
    with open(path) as file:
        return file.read().splitlines()


def test_a_logger_speaks_on_the_main_process_or_on_all_and_names_the_caller(tmp_path):
    lines = on_ranks(_logged, str(tmp_path / "log"), False, procs=3)[0]
    assert sorted(lines) == [
        "_logged: [RANK 0] on all",
        "_logged: [RANK 2] on all",
        "_logged: hidden on all but the main process",
    ]


def test_ranks_log_in_order_though_one_of_them_is_silent(tmp_path):
    lines = on_ranks(_logged, str(tmp_path / "log"), True, procs=3)[0]
    assert lines == ["_logged: [RANK 0] in turn", "_logged: [RANK 2] in turn"]


def test_a_logger_works_before_there_is_an_accelerator_and_makes_no_state(caplog, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    logger = get_logger("early", log_level="info")
    logger.info("not on rank 1")
    logger.info("on rank 1", main_process_only=False, extra={"run": "a"})
    assert caplog.messages == ["[RANK 1] on rank 1"]
    assert caplog.records[0].run == "a"
    assert PartialState._shared_state == {}


def test_a_warning_can_be_given_once(caplog):
    logger = get_logger("once")
    for word in ("old", "old", "new"):
        logger.warning_once("%s is deprecated", word)
    assert caplog.messages == ["old is deprecated", "new is deprecated"]
    assert {record.funcName for record in caplog.records} == {"test_a_warning_can_be_given_once"}


def test_an_unknown_level_is_one_clear_line():
    with pytest.raises(AccelnbError, match=r"^log_level=loud: choose one of CRITICAL"):
        get_logger("x", log_level="loud")


# ---- progress bars ----


def _bars():
    return [
        tqdm(range(2), main_process_only=main, file=sys.stdout).disable for main in (True, False)
    ]


def test_a_bar_is_shown_by_one_rank_of_a_machine_or_by_all():
    assert on_ranks(_bars) == [[False, False], [True, False]]


def test_bars_without_tqdm_and_with_arguments_of_old_are_clear_errors(monkeypatch):
    with pytest.raises(AccelnbError, match=r"pass main_process_only by its name"):
        tqdm(True, range(3))
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(AccelnbError, match=r"pip install tqdm"):
        tqdm(range(3))


# ---- profiles ----


def _operations(path):
    return {event["name"] for event in json.loads(path.read_text())["traceEvents"]}


def _profile(folder):
    with profiled(ProfileKwargs(["cpu"], output_trace_dir=folder), PartialState()):
        torch.ones(3).exp()


def test_each_rank_writes_its_trace(tmp_path):
    on_ranks(_profile, str(tmp_path / "traces"))
    for rank in range(2):
        assert "aten::exp" in _operations(tmp_path / "traces" / f"profile_{rank}.json")


def _unwritable_on_one(folder):
    state = PartialState()
    path = f"{folder}/{state.process_index}"
    if state.process_index == 1:
        open(path, "w").close()  # a file, where a folder is to be made
    try:
        with profiled(ProfileKwargs(["cpu"], output_trace_dir=path), state):
            pass
    except (AccelnbError, OSError) as error:
        return str(error)


def test_a_trace_that_one_rank_cannot_write_fails_on_all_and_none_waits(tmp_path):
    said = on_ranks(_unwritable_on_one, str(tmp_path))
    assert said[0].startswith("rank 1: FileExistsError")
    assert "File exists" in said[1]


def test_a_scheduled_profile_holds_its_steps_also_if_the_handler_has_written_them(tmp_path):
    seen = []
    for handler in (
        lambda profiler: seen.append(profiler.step_num),
        lambda profiler: profiler.export_chrome_trace(str(tmp_path / "own.json")),
    ):
        settings = ProfileKwargs(
            activities=["cpu"],
            schedule_option={"wait": 1, "warmup": 1, "active": 1, "repeat": 1},
            on_trace_ready=handler,
            output_trace_dir=str(tmp_path),
        )
        with profiled(settings, PartialState()) as profiler:
            for step in range(4):
                _ = torch.ones(3).sin() if step == 2 else torch.ones(3).cos()
                profiler.step()
    assert seen == [3]
    for name in ("profile_0.json", "own.json"):
        assert "aten::sin" in _operations(tmp_path / name)
        assert "aten::cos" not in _operations(tmp_path / name)


def test_a_schedule_that_never_records_warns_that_there_is_no_trace(tmp_path):
    settings = ProfileKwargs(
        activities=["cpu"],
        schedule_option={"wait": 9, "warmup": 1, "active": 1},
        output_trace_dir=str(tmp_path),
    )
    with pytest.warns(UserWarning, match="nothing was recorded"):  # noqa: SIM117
        with profiled(settings, PartialState()) as profiler:
            profiler.step()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ProfileKwargs(activities=["gpu"]), r"^activities: 'gpu' is none of cpu, "),
        (ProfileKwargs(schedule_option={"waiting": 1}), r"^schedule_option=\{'waiting': 1\}: "),
    ],
)
def test_wrong_settings_of_a_profile_are_one_clear_line(settings, message):
    with pytest.raises(AccelnbError, match=message), profiled(settings, PartialState()):
        pass


# ---- local SGD ----


def _trained(local_sgd_steps, enabled=True):
    from torch.nn.parallel import DistributedDataParallel

    state = PartialState()
    model = DistributedDataParallel(_weight(2.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    seen = []
    with LocalSGD(state, model, local_sgd_steps, enabled) as local_sgd:
        for _ in range(3):
            model(torch.full((1, 1), state.process_index + 1.0)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            local_sgd.step()
            seen.append(model.module.weight.item())
    return [*seen, model.module.weight.item()]


def _weight(value):
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, value)
    return model


def _locally(weight, rank):
    x = rank + 1.0
    return weight - 0.5 * 2 * x * (weight * x)


def test_ranks_train_alone_and_average_their_parameters_every_few_steps_and_at_the_end():
    first = [_locally(2.0, rank) for rank in range(2)]
    second = sum(_locally(first[rank], rank) for rank in range(2)) / 2
    third = [_locally(second, rank) for rank in range(2)]
    assert first[0] != first[1]
    assert third[0] != third[1]
    end = sum(third) / 2
    assert on_ranks(_trained, 2) == [[first[r], second, third[r], end] for r in range(2)]


def test_local_sgd_that_is_not_enabled_averages_gradients_at_every_step():
    averaged = [2.0]
    for _ in range(3):
        averaged.append(sum(_locally(averaged[-1], rank) for rank in range(2)) / 2)
    assert on_ranks(_trained, 2, False) == [[*averaged[1:], averaged[-1]]] * 2


def test_local_sgd_refuses_what_it_cannot_average():
    with pytest.raises(AccelnbError, match=r"^local_sgd_steps=0: must be at least 1"):
        LocalSGD(PartialState(), _weight(1.0), 0)
    assert on_ranks(_refused) == ["LocalSGD: this Linear is not wrapped by DDP; pass the"] * 2


def _refused():
    try:
        LocalSGD(PartialState(), _weight(1.0), 2)
    except AccelnbError as error:
        return str(error)[:53]
    return "accepted"
