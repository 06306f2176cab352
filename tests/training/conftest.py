"""Each test of training finds a process in which no Accelerator was made yet."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from accelnb.training.gradients import GradientState
from accelnb.training.state import AcceleratorState


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
