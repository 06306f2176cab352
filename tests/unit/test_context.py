"""What happens to tensors and to attention in a block in which processes share a sequence."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from accelnb import Accelerator, AccelnbError
from accelnb.training.gradients import GradientState
from accelnb.training.parallel.context_parallel.attention_dispatch import attention_computed_by
from accelnb.training.parallel.context_parallel.gathered_attention import Attention
from accelnb.training.parallel.context_parallel.model_inputs import check_inputs_of
from accelnb.training.parallel.context_parallel.sequence import SequenceShare, in_parts
from accelnb.training.state import AcceleratorState


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


SECOND_OF_TWO = SequenceShare(parts=2, part=1)


def test_tensors_hold_a_part_and_are_whole_again_even_after_an_interrupt():
    pair = torch.arange(14).reshape(2, 7)
    tokens, labels = pair[:, :-1], pair[:, 1:]  # views of one storage
    table = nn.Module()
    table.register_buffer("places", torch.arange(6.0))
    given = [tokens, labels, table.places]
    wholes = [tensor.clone() for tensor in given]

    def block() -> None:
        with in_parts(given, [1, -1, 0], [], SECOND_OF_TWO):
            assert tokens.tolist() == [[3, 4, 5], [10, 11, 12]]
            assert labels.view(-1).tolist() == [4, 5, 6, 11, 12, 13]
            assert table.get_buffer("places").tolist() == [3, 4, 5]
            tokens.zero_()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        block()
    assert all(map(torch.equal, given, wholes))
    tokens += 1
    assert pair[0].tolist() == [1, 2, 3, 4, 5, 6, 6]  # as before it is a view


def test_no_restore_buffers_keep_their_part():
    kept, restored = torch.arange(4), torch.arange(4)
    with in_parts([kept, restored], [0, 0], {kept}, SECOND_OF_TWO):
        pass
    assert kept.tolist() == [2, 3]
    assert restored.tolist() == [0, 1, 2, 3]
    assert kept.untyped_storage().nbytes() == 16


def test_a_backward_pass_after_the_block_does_not_compute_with_whole_tensors():
    words, tokens = nn.Embedding(4, 2), torch.arange(4)
    with in_parts([tokens], [0], [], SECOND_OF_TWO):
        total = words(tokens).sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


@pytest.mark.parametrize(
    ("buffers", "dims", "kept", "message"),
    [
        ([torch.ones(2, 5)], [1], [], "a sequence of 5 is not divided by 2 ranks: pad it to 6"),
        ([torch.ones(4)], [], [], "1 buffers but 0 buffer_seq_dims"),
        ([torch.ones(4), torch.ones(2, 5)], [0, 0], [], "are 2, 4 long"),
        ([torch.ones(4)], [1], [], r"buffers\[0\] has 1 dimensions, none is 1"),
        ([torch.ones(4, requires_grad=True)], [0], [], r"buffers\[0\] has gradients"),
        ([torch.ones(4)], [0], [torch.ones(4)], "no_restore_buffers has a tensor that is not in"),
        ([[1, 2]], [0], [], r"buffers\[0\] is list"),
    ],
)
def test_what_cannot_be_divided_is_refused_before_anything_is_changed(buffers, dims, kept, message):
    before = [len(buffer) for buffer in buffers]
    with (
        pytest.raises(AccelnbError, match=message),
        in_parts(buffers, dims, kept, SECOND_OF_TWO),
    ):
        pass
    assert [len(buffer) for buffer in buffers] == before


def test_a_tensor_given_twice_is_refused():
    first = torch.arange(4)
    with (
        pytest.raises(AccelnbError, match="there twice"),
        in_parts([first, first], [0, 0], [], SECOND_OF_TWO),
    ):
        pass


# ---- attention ----


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # A function imported by name, before anything was changed in torch.
        return scaled_dot_product_attention(self.layer(x), x, x)


def doubled(attention: Attention) -> torch.Tensor:
    return 2 * attention.computed()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(1, 2, 3, 4)


def test_attention_is_another_one_in_the_block_only(x):
    model = Attending()
    expected = model(x)
    with attention_computed_by(doubled, "cpu", "doubled"):
        torch.testing.assert_close(model(x), 2 * expected)
        with torch.inference_mode():
            torch.testing.assert_close(model(x.clone()), 2 * expected)
        with torch.autocast("cpu", torch.bfloat16):
            assert model(x).dtype == torch.bfloat16
    assert model(x).equal(expected)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("by_thread", [False, True])
def test_a_backward_pass_recomputes_what_its_own_forward_pass_computed(x, reentrant, by_thread):
    model = Attending()

    def gradient_of(total: torch.Tensor) -> torch.Tensor:
        model.zero_grad()
        if by_thread:  # as those of devices are
            thread = threading.Thread(target=total.backward)
            thread.start()
            thread.join(20)
        else:
            total.backward()
        assert model.layer.weight.grad is not None
        return model.layer.weight.grad.clone()

    def total() -> torch.Tensor:
        given = x.clone().requires_grad_()
        return checkpoint(model, given, use_reentrant=reentrant).square().sum()

    def sharper(attention: Attention) -> torch.Tensor:
        return replace(attention, scale=3.0).computed()

    plain = gradient_of(model(x).square().sum())
    with attention_computed_by(sharper, "cpu", "sharper"):
        sharp = gradient_of(model(x).square().sum())
    before = total()
    with attention_computed_by(sharper, "cpu", "sharper"):
        inside = total()
    after = total()
    with attention_computed_by(sharper, "cpu", "sharper"):
        torch.testing.assert_close(gradient_of(before), plain)
    torch.testing.assert_close(gradient_of(inside), sharp)
    torch.testing.assert_close(gradient_of(after), plain)


def test_layers_of_torch_call_the_function_in_evaluation_too_and_return_no_weights(x):
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()
    check_inputs_of(layer)
    with torch.no_grad():
        expected = layer(x[0])
        with attention_computed_by(doubled, "cpu", "doubled"):
            assert not torch.allclose(layer(x[0]), expected)
            with pytest.raises(AccelnbError, match="need_weights=False"):
                layer.self_attn(x[0], x[0], x[0])
        torch.testing.assert_close(layer(x[0]), expected)
        layer.self_attn(x[0], x[0], x[0])


def test_a_model_whose_attention_was_not_seen_is_an_error_unless_another_is_under_way(x):
    eager = nn.MultiheadAttention(4, 2, batch_first=True)  # returns weights, computed by hand
    with (
        pytest.raises(AccelnbError, match="MultiheadAttention ran, but no attention"),
        attention_computed_by(doubled, "cpu", "doubled"),
    ):
        eager(x[0], x[0], x[0])
    with pytest.raises(RuntimeError), attention_computed_by(doubled, "cpu", "doubled"):
        eager.out_proj(x[0].new_ones(2, 3))
    with attention_computed_by(doubled, "cpu", "doubled"):
        nn.CrossEntropyLoss()(torch.ones(2, 3), torch.zeros(2, dtype=torch.int64))


def test_reentrant_checkpoints_within_each_other_are_refused_where_it_shows(x):
    model = Attending()

    def outer(x: torch.Tensor) -> torch.Tensor:
        return checkpoint(model, x, use_reentrant=True).tanh()

    with attention_computed_by(doubled, "cpu", "doubled"):
        total = checkpoint(outer, x.requires_grad_(), use_reentrant=True).sum()
    with pytest.raises(AccelnbError, match="use_reentrant=False"):
        total.backward()


class Numbering(Attending):
    loss_type = "ForCausalLM"  # of transformers

    def forward(self, x, position_ids=None, labels=None, **kwargs):
        return super().forward(x)


def test_a_model_that_would_number_or_shift_within_a_part_says_so(x):
    model = nn.Sequential(Numbering())
    check_inputs_of(model)
    model(x)
    with attention_computed_by(doubled, "cpu", "doubled"):
        with pytest.raises(AccelnbError, match="Numbering got no position_ids"):
            model(x)
        model[0](x, position_ids=x)
        with pytest.raises(AccelnbError, match="shifts labels by one"):
            model[0](x, x, labels=x)
        model[0](x, x, labels=x, shift_labels=x)


def test_blocks_are_not_nested():
    with (
        attention_computed_by(doubled, "cpu", "doubled"),
        pytest.raises(AccelnbError, match="do not nest"),
        attention_computed_by(doubled, "cpu", "doubled"),
    ):
        pass


# ---- the Accelerator ----


def test_with_one_process_there_is_nothing_to_divide():
    tokens = torch.arange(5)
    with Accelerator().maybe_context_parallel([tokens], [0]):
        assert len(tokens) == 5


def test_the_mean_counts_each_token_of_an_accumulation_once():
    accelerator = Accelerator(gradient_accumulation_steps=2)
    weight = nn.Parameter(torch.ones(()))
    for values in ([1.0, 2.0, 3.0], [10.0]):
        loss = accelerator.mean_of_tokens(weight * sum(values), step_count=4)
        accelerator.backward(loss)
    assert weight.grad is not None
    assert weight.grad.item() == pytest.approx(16 / 4)
    assert accelerator.mean_of_tokens(torch.zeros(()), 0).item() == 0
    with pytest.raises(AccelnbError, match="one of count"):
        accelerator.mean_of_tokens(torch.ones(()))
