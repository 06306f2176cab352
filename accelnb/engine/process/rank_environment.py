"""The environment of a rank: what is its own, and what its Python starts with."""

from __future__ import annotations

import os
from typing import Any

from accelnb.options import environment

NO_PLUGINS = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}


def own_variables(spec: dict[str, Any]) -> dict[str, str]:
    """Return the variables that say which rank the described one is, as torchrun would set them.

    They are the rank's alone: the notebook neither sets nor changes nor removes them there. See
    https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables.
    """
    rank, world_size = spec["rank"], spec["world_size"]
    local_rank, of_node = spec["local_rank"], spec["local_world_size"]
    own = {
        "RANK": rank,
        "LOCAL_RANK": local_rank,
        "ROLE_RANK": rank,
        "GROUP_RANK": rank // of_node,
        "WORLD_SIZE": world_size,
        "LOCAL_WORLD_SIZE": of_node,
        "ROLE_WORLD_SIZE": world_size,
        "GROUP_WORLD_SIZE": world_size // of_node,
        "ROLE_NAME": "default",
        "MASTER_ADDR": spec["rendezvous"]["host"],
        "MASTER_PORT": spec["rendezvous"]["port"],
        "TORCHELASTIC_RUN_ID": "accelnb",
        "TORCHELASTIC_RESTART_COUNT": 0,
        "TORCHELASTIC_MAX_RESTARTS": 0,
        "TORCHELASTIC_USE_AGENT_STORE": True,
        environment.DEVICE: spec["device"],
    }
    if spec["device"] == "cpu":
        own[environment.USE_CPU] = "true"
    return {name: str(value) for name, value in own.items()}


def is_of_launcher(name: str) -> bool:
    """Tell whether torchrun alone sets a variable: a notebook that it started may have more."""
    return name.startswith("TORCHELASTIC_")


def environment_for(spec: dict[str, Any]) -> dict[str, str]:
    """Return the environment for the rank that `spec` describes; later it has the notebook's.

    torch and what drives a device read some of it while they are imported. No plugin of torch is
    loaded with it unless the launcher wants that: an installed torch_tpu stalls ranks on the CPU.
    """
    around = {} if spec["same_machine"] else os.environ
    merged = {**around, **spec["context"]["env"]}
    for name in own_variables(spec):
        merged.pop(name, None)  # those of the notebook, which is no rank
    merged |= {**NO_PLUGINS, **spec["launch_env"]}
    # What the notebook took out of its environment is None.
    return {name: value for name, value in merged.items() if value is not None}
