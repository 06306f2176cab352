"""Models cut into stages: outputs as of one process, in batches of any size."""

from __future__ import annotations

import pytest
import torch
from ranks import on_ranks
from torch import nn

from accelnb.big_model.pipelined.prepare import prepare_pippy


def layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(8, 8) for _ in range(8)], nn.Linear(8, 3)).eval()


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, inputs, scale):
        return {"scores": self.second(self.first(inputs) * scale)}


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, inputs):
        return self.second(self.first(inputs)) if inputs.sum() > 0 else self.second(inputs)


def outputs(sizes: list[int], gather: bool):
    """Return how far the outputs are from those of one process, None where there are none."""
    model = prepare_pippy(layers(), example_args=(torch.ones(2, 8),), gather_output=gather)
    found = []
    for size in sizes:
        inputs = torch.arange(8.0 * size).view(size, 8) / 50
        output = model(inputs)
        if output is not None:
            assert output.shape == (size, 3)
            found.append((output - layers()(inputs)).abs().max().item())
    return found


def test_the_last_of_two_ranks_has_the_outputs():
    first, last = on_ranks(outputs, [7, 4, 1], False, strategy="none")
    assert first == []
    assert last == pytest.approx([0, 0, 0], abs=1e-6)


def test_all_of_four_ranks_have_the_outputs():
    for its in on_ranks(outputs, [9, 3], True, procs=4, strategy="none"):
        assert its == pytest.approx([0, 0], abs=1e-6)


def with_names():
    torch.manual_seed(0)
    model, whole = Scaled(), Scaled()
    whole.load_state_dict(model.state_dict())
    example = {"inputs": torch.ones(1, 8), "scale": torch.ones(1, 1)}
    model = prepare_pippy(model, ["second"], example_kwargs=example, gather_output=True)
    given = {"inputs": torch.randn(3, 8), "scale": torch.arange(3.0).view(3, 1)}
    return (model(**given)["scores"] - whole(**given)["scores"]).abs().max().item()


def test_arguments_and_outputs_have_names():
    assert on_ranks(with_names, strategy="none") == pytest.approx([0, 0], abs=1e-6)


def refused(model: nn.Module, points):
    prepare_pippy(model, points, example_args=(torch.ones(2, 8),))


@pytest.mark.parametrize(
    ("model", "points", "said"),
    [
        (Branching(), ["second"], "Branching cannot be cut into stages"),
        (Scaled(), ["third"], "has no module third"),
        (layers(), ["1", "2"], "2 processes need 1 of them"),
        (nn.Sequential(nn.Linear(8, 8)), "auto", "cannot be cut into 2 stages"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_one_line(model, points, said):
    with pytest.raises(Exception, match=said):
        on_ranks(refused, model, points, strategy="none")
