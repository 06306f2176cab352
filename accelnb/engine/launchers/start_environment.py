"""The environment that a rank's Python starts with, if it is not forked."""

from __future__ import annotations

import os
from typing import Any

NO_PLUGINS = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}


def environment_for(spec: dict[str, Any]) -> dict[str, str]:
    """Return the environment for the rank that `spec` describes; later it has the notebook's.

    torch and what drives a device read some of it while they are imported. No plugin of torch is
    loaded with it unless the launcher wants that: an installed torch_tpu stalls ranks on the CPU.
    """
    own = {} if spec["same_machine"] else os.environ
    merged = {**own, **spec["context"]["env"], **NO_PLUGINS, **spec["launch_env"]}
    # What the notebook took out of its environment is None.
    return {name: value for name, value in merged.items() if value is not None}
