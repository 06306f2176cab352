"""The Accelerator in a training step: precision, accumulation, schedulers, what it refuses."""

from __future__ import annotations

import copy
import importlib.util
import pickle

import pytest
import torch
from ranks import on_ranks

from accelnb import Accelerator, AccelnbError
from accelnb.training.optimizer import AcceleratedOptimizer
from accelnb.training.state import AcceleratorState
from accelnb.utils import (
    AORecipeKwargs,
    AutocastKwargs,
    GradientAccumulationPlugin,
    GradScalerKwargs,
    TorchDynamoPlugin,
)


def loader(size: int, batch_size: int = 2, **options):
    data = torch.utils.data.TensorDataset(torch.arange(float(size)).unsqueeze(1))
    return torch.utils.data.DataLoader(data, batch_size, **options)


# ---- precision ----


def test_bf16_computes_in_bf16_and_returns_fp32():
    accelerator = Accelerator(mixed_precision="bf16")
    seen = []
    model = torch.nn.Linear(4, 4)
    model.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    prepared = accelerator.prepare(torch.nn.Sequential(model))
    assert prepared(torch.ones(1, 4)).dtype == torch.float32
    assert seen == [torch.bfloat16]
    with accelerator.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with accelerator.autocast(AutocastKwargs(enabled=False)):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


class Outputs(dict):
    """Like those of transformers: values are attributes too, and there is no `update`."""

    def __getattr__(self, name):
        return self[name]

    def update(self, *args):
        raise RuntimeError("use the constructor")


class Scores(torch.nn.Linear):
    def forward(self, x):
        return Outputs(scores=super().forward(x))


def test_outputs_in_a_dict_of_the_models_own_kind_stay_of_that_kind():
    outputs = Accelerator(mixed_precision="bf16").prepare(Scores(2, 1))(torch.ones(1, 2))
    assert isinstance(outputs, Outputs)
    assert outputs.scores.dtype == torch.float32


def test_fp16_leaves_out_a_step_that_overflows_and_the_scheduler_waits():
    accelerator = Accelerator(
        mixed_precision="fp16", kwargs_handlers=[GradScalerKwargs(init_scale=1024.0)]
    )
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    model, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)

    def step(factor: float) -> bool:
        before = model.weight.detach().clone()
        accelerator.backward(model(torch.ones(1, 2)).sum() * factor)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        accelerator.clip_grad_value_(model.parameters(), 1.0)  # unscales once, not twice
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        return not torch.equal(before, model.weight)

    assert not step(1e8)
    assert accelerator.optimizer_step_was_skipped
    assert schedule.get_last_lr() == [0.1]
    assert step(1.0)
    assert not accelerator.optimizer_step_was_skipped
    assert schedule.get_last_lr() == [0.05]
    assert accelerator.scaler is not None
    assert accelerator.scaler.get_scale() == 512.0


def test_two_optimizers_step_after_one_fp16_backward_as_in_fp32():
    def weights(precision: str) -> torch.Tensor:
        torch.manual_seed(0)
        scale = GradScalerKwargs(init_scale=1024.0)
        accelerator = Accelerator(mixed_precision=precision, kwargs_handlers=[scale])
        model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Linear(4, 1))
        parts = [torch.optim.SGD(part.parameters(), lr=0.1) for part in model]
        model, first, second = accelerator.prepare(model, *parts)
        for step in range(3):
            overflow = 1e38 if step == 1 and precision == "fp16" else 1.0  # left out by both
            if step != 1 or precision == "fp16":
                accelerator.backward(model(torch.ones(1, 2)).sum() * overflow)
                accelerator.clip_grad_norm_(model.parameters(), 0.5)
                first.step()
                second.step()
                assert [first.step_was_skipped, second.step_was_skipped] == [overflow > 1] * 2
            first.zero_grad()
            second.zero_grad()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.allclose(weights("fp16"), weights("no"), atol=1e-3)


def test_fp16_trains_without_a_scale_if_so_asked():
    off = GradScalerKwargs(enabled=False)
    accelerator = Accelerator(mixed_precision="fp16", kwargs_handlers=[off])
    model = torch.nn.Linear(1, 1, bias=False)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=1.0))
    before = model.weight.item()
    accelerator.backward(model(torch.ones(1, 1)).sum())
    accelerator.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
    assert model.weight.item() == pytest.approx(before - 0.5, abs=1e-3)


def test_fp16_gradients_are_not_clipped_before_they_are_complete():
    accelerator = Accelerator(mixed_precision="fp16", gradient_accumulation_steps=2)
    model = torch.nn.Linear(2, 1)
    model, _ = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with accelerator.accumulate(model):
        accelerator.backward(model(torch.ones(1, 2)).sum())
        with pytest.raises(AccelnbError, match=r"only if accelerator\.sync_gradients"):
            accelerator.clip_grad_norm_(model.parameters(), 1.0)


def test_another_accelerator_prepares_a_model_anew_in_its_own_precision():
    model = Accelerator().prepare(torch.nn.Linear(2, 2))
    half = Accelerator(mixed_precision="bf16").prepare(model)
    assert half is model
    assert AcceleratorState().mixed_precision == "bf16"
    with torch.no_grad():
        rounded = model(torch.tensor([[1.001, 2.003]]))
        exact = Accelerator(mixed_precision="no").prepare(model)(torch.tensor([[1.001, 2.003]]))
    assert not torch.equal(rounded, exact)


def test_fp8_says_what_it_needs(monkeypatch):
    with monkeypatch.context() as missing:
        missing.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(AccelnbError, match=r"torchao is missing; pip install 'accelnb\[fp8\]'"):
            Accelerator(mixed_precision="fp8")
    pytest.importorskip("torchao")
    with pytest.raises(AccelnbError, match="fp8: cpu cannot; choose one of no, bf16, fp16, or"):
        Accelerator(mixed_precision="fp8")


def test_fp8_trains_emulated():
    float8 = pytest.importorskip("torchao.float8")
    recipe = AORecipeKwargs(config=float8.Float8LinearConfig(emulate=True))
    accelerator = Accelerator(mixed_precision="fp8", kwargs_handlers=[recipe])
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(16, 16) for _ in range(4)))
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.5))
    names = [type(layer).__name__ for layer in model]
    assert names == ["Linear", "Float8Linear", "Float8Linear", "Linear"]
    x, losses = torch.randn(32, 16), []
    for _ in range(20):
        loss = torch.nn.functional.mse_loss(model(x), x)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


# ---- accumulation ----


def _all_reduces(batches: int, steps: int, each_batch: bool) -> tuple[list[int], list[int]]:
    """Count the all-reduces of each batch, and the optimizer's steps."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    plugin = GradientAccumulationPlugin(num_steps=steps, sync_each_batch=each_batch)
    accelerator = Accelerator(gradient_accumulation_plugin=plugin)
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer, data = accelerator.prepare(model, optimizer, loader(4 * batches))
    count = [0]

    def hook(state, bucket):
        count[0] += 1
        return allreduce_hook(state, bucket)

    model.register_comm_hook(None, hook)
    reduced, stepped = [], []
    for (x,) in data:
        before, weight = count[0], model.module.weight.item()
        with accelerator.accumulate(model):
            accelerator.backward(model(x).sum())
            optimizer.step()
            optimizer.zero_grad()
        reduced.append(count[0] - before)
        stepped.append(int(model.module.weight.item() != weight))
    return reduced, stepped


def test_gradients_are_averaged_only_at_the_boundary_and_at_the_end_of_the_loader():
    expected = [0, 0, 1, 0, 0, 1, 1]
    assert on_ranks(_all_reduces, 7, 3, False) == [(expected, expected)] * 2
    assert on_ranks(_all_reduces, 7, 3, True) == [([1] * 7, expected)] * 2
    assert on_ranks(_all_reduces, 3, 1, False) == [([1] * 3, [1] * 3)] * 2


def test_accumulation_does_not_end_with_the_loader_if_so_asked():
    plugin = GradientAccumulationPlugin(num_steps=4, sync_with_dataloader=False)
    accelerator = Accelerator(gradient_accumulation_plugin=plugin)
    data = accelerator.prepare(loader(6))
    synced = []
    for _ in range(2):
        for _batch in data:
            with accelerator.accumulate():
                synced.append(accelerator.sync_gradients)
    assert synced == [False, False, False, True, False, False]


def _sync_on_demand() -> list[bool]:
    accelerator = Accelerator()
    model = accelerator.prepare(torch.nn.Linear(1, 1, bias=False))
    x = torch.full((1, 1), float(accelerator.process_index + 1))
    equal = []

    def grads_are_equal() -> bool:
        grads = accelerator.gather(model.module.weight.grad.view(1))
        return bool((grads == grads[0]).all())

    with accelerator.no_sync(model):
        first = model(x).sum()
        second = model(x).sum()
    accelerator.backward(first)
    equal.append(grads_are_equal())
    with accelerator.trigger_sync_in_backward(model):
        accelerator.backward(second)
    equal.append(grads_are_equal())
    return equal


def test_gradients_stay_apart_in_no_sync_until_a_backward_is_asked_to_sync():
    assert on_ranks(_sync_on_demand) == [[False, True]] * 2


# ---- prepare and its opposite ----


def test_prepare_keeps_order_and_leaves_other_objects_alone():
    accelerator = Accelerator()
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    result = accelerator.prepare(schedule, "text", loader(4), optimizer, model)
    kinds = [type(thing).__name__ for thing in result]
    assert kinds == [
        "AcceleratedScheduler", "str", "DataLoaderShard", "AcceleratedOptimizer", "Linear"
    ]  # fmt: skip
    assert result[0].optimizers == [result[3]]
    assert isinstance(result[3], torch.optim.Optimizer)
    assert isinstance(result[2], torch.utils.data.DataLoader)
    again = accelerator.prepare(*result)
    assert all(one is other for one, other in zip(result, again, strict=True))


def test_an_optimizer_is_prepared_after_its_model_and_keeps_its_state():
    seen = []

    class Net(torch.nn.Linear):
        def to(self, *args, **kwargs):
            seen.append("model moved")
            return super().to(*args, **kwargs)

    class Adam(torch.optim.Adam):
        def load_state_dict(self, state_dict):
            seen.append("state moved")
            super().load_state_dict(state_dict)

    net = Net(1, 1)
    optimizer = Adam(net.parameters())
    net(torch.ones(1, 1)).sum().backward()
    optimizer.step()
    before = optimizer.state[net.weight]["exp_avg"].item()
    optimizer, net = Accelerator().prepare(optimizer, net)
    assert seen == ["model moved", "state moved"]
    assert optimizer.state[net.weight]["exp_avg"].item() == before != 0


def _twice() -> list[str]:
    accelerator = Accelerator()
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    accelerator.prepare(model, optimizer)
    said = []
    for thing in (model, optimizer):
        try:
            accelerator.prepare(thing)
        except AccelnbError as error:
            said.append(str(error))
    accelerator.free_memory()
    accelerator.prepare(model, optimizer)
    return said


def test_what_was_prepared_is_not_prepared_again_under_its_old_name():
    for said in on_ranks(_twice):
        assert [text.split(":")[0] for text in said] == [
            "this model was prepared before",
            "this optimizer was prepared before",
        ]
        assert "use what prepare() returned, or call free_memory() first" in said[0]


def _on_a_new_group() -> tuple[int, bool, bool]:
    accelerator = Accelerator()
    net = torch.nn.Linear(1, 1)
    model, optimizer = accelerator.prepare(net, torch.optim.SGD(net.parameters(), lr=1.0))
    torch.distributed.destroy_process_group()
    torch.distributed.init_process_group()
    model, optimizer = accelerator.prepare(model, optimizer)  # the cell is run again
    accelerator.backward(model(torch.full((1, 1), float(accelerator.process_index))).sum())
    assert net.weight.grad is not None
    averages_now = model.process_group is torch.distributed.group.WORLD
    return len(accelerator._models), averages_now, net.weight.grad.item() == 0.5


def test_what_is_prepared_again_trains_on_the_process_group_that_there_is_now():
    assert on_ranks(_on_a_new_group) == [(1, True, True)] * 2


def _unwrapped() -> list[bool]:
    accelerator = Accelerator(mixed_precision="bf16")
    inner = torch.nn.Linear(2, 2)
    model = accelerator.prepare(inner)
    x = torch.ones(1, 2)
    return [
        isinstance(model, torch.nn.parallel.DistributedDataParallel),
        accelerator.unwrap_model(model) is inner,
        "forward" in inner.__dict__,
        accelerator.unwrap_model(model, keep_fp32_wrapper=False) is inner,
        "forward" in inner.__dict__,
        bool(torch.equal(inner(x), torch.nn.functional.linear(x, inner.weight, inner.bias))),
    ]


def test_a_model_can_be_unwrapped_with_and_without_its_precision():
    assert on_ranks(_unwrapped)[0] == [True, True, True, True, False, True]


def test_compiled_models_train_alike_and_keep_the_names_of_their_weights():
    def train(**options) -> tuple[list[float], list[str]]:
        torch.manual_seed(0)
        accelerator = Accelerator(**options)
        blocks = (torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh()) for _ in range(3))
        model = torch.nn.Sequential(*blocks)
        model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
        losses = []
        for _ in range(3):
            loss = model(torch.ones(2, 4)).square().mean()
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return losses, list(accelerator.get_state_dict(model))

    plain = train()
    assert train(dynamo_backend="aot_eager") == plain
    regional = TorchDynamoPlugin(backend="eager", use_regional_compilation=True)
    assert train(dynamo_plugin=regional) == plain
    assert train(activation_checkpointing=True) == plain


def test_a_later_accelerator_does_not_change_what_an_earlier_one_compiles():
    earlier = Accelerator(dynamo_backend="eager")
    Accelerator()
    assert earlier.prepare(torch.nn.Sequential(torch.nn.Linear(1, 1)))._compiled_call_impl


def test_an_accelerator_and_what_it_prepared_survive_copies_and_pickle():
    accelerator = Accelerator(mixed_precision="bf16")
    model = torch.nn.Linear(2, 1)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=1.0))
    assert copy.deepcopy(accelerator) is accelerator
    assert pickle.loads(pickle.dumps(accelerator)).mixed_precision == "bf16"
    restored = pickle.loads(pickle.dumps(optimizer))
    assert isinstance(restored, AcceleratedOptimizer)
    assert restored.param_groups[0]["lr"] == 1.0
    twin = copy.deepcopy(model)
    assert twin(torch.ones(1, 2)).dtype == torch.float32
    with torch.no_grad():
        twin.weight.zero_()
        twin.bias.zero_()
    assert twin(torch.ones(1, 2)).item() == 0.0  # its forward is its own, not the original's


def test_free_memory_forgets_everything():
    accelerator = Accelerator()
    model = torch.nn.Linear(1, 1)
    accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=1.0), loader(4))
    assert accelerator.free_memory(model, None) == [None, None]
    assert not accelerator._models
    assert not accelerator._optimizers
    assert not accelerator._dataloaders


# ---- what it refuses ----


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps=0: must be a whole"),
        (
            {
                "gradient_accumulation_steps": 2,
                "gradient_accumulation_plugin": GradientAccumulationPlugin(2),
            },
            "give one of gradient_accumulation_steps and gradient_accumulation_plugin",
        ),
        (
            {"kwargs_handlers": [AutocastKwargs(), AutocastKwargs()]},
            "kwargs_handlers: there are two AutocastKwargs",
        ),
        (
            {"kwargs_handlers": [GradientAccumulationPlugin()]},
            "kwargs_handlers: GradientAccumulationPlugin is none of AutocastKwargs",
        ),
        (
            {"dynamo_backend": "eager", "dynamo_plugin": TorchDynamoPlugin()},
            "give one of dynamo_backend and dynamo_plugin",
        ),
        ({"mixed_precision": "fp32"}, "mixed_precision=fp32: choose one of no, fp8, fp16, bf16"),
        ({"rng_types": ["python"]}, "RNGType: 'python' is none of torch, cuda,"),
        ({"dynamo_backend": "fast"}, "DynamoBackend: 'fast' is none of NO, EAGER,"),
        ({"mixed_precision": "fp16", "log_with": "none"}, "log_with=none: choose from aim,"),
    ],
)
def test_wrong_arguments_are_one_clear_line_and_change_nothing(given, said):
    earlier = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=3)
    with pytest.raises(AccelnbError) as error:
        Accelerator(**given)
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)
    assert earlier.gradient_accumulation_steps == 3
    assert earlier.state.mixed_precision == "bf16"


def test_backward_of_a_number_says_what_went_wrong():
    with pytest.raises(AccelnbError, match=r"takes the loss as a tensor, not as float: do not"):
        Accelerator().backward(0.5)  # pyright: ignore[reportArgumentType]


def test_accumulation_steps_come_from_the_launch_unless_given(monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "3")
    assert Accelerator().gradient_accumulation_steps == 3
    assert Accelerator(gradient_accumulation_steps=2).gradient_accumulation_steps == 2
