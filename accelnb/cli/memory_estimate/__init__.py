"""How much memory each rank needs to train a model, before it is tried."""

from __future__ import annotations

from accelnb.cli.memory_estimate.model_size import ModelSize as ModelSize
from accelnb.cli.memory_estimate.model_size import read_model as read_model
from accelnb.cli.memory_estimate.rank_memory import Need as Need
from accelnb.cli.memory_estimate.rank_memory import estimate as estimate
