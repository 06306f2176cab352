"""What a rank takes from the notebook's process: folder, path, environment, fp32 precision."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

from accelnb.hardware.limits import usable_cpus
from accelnb.training import environment


class Context:
    """Keeps this process's folder, path and environment as the notebook's are.

    On another machine they are followed as far as that can be: a folder or an entry of the path
    only where there is one of that name, and of the environment what the notebook itself set.

    Parameters
    ----------
    same_machine
        Whether the notebook runs on this machine.
    """

    def __init__(self, same_machine: bool) -> None:
        self._same_machine = same_machine
        self._own_path = list(sys.path)

    def begin(self, context: dict[str, Any]) -> None:
        """Take over the notebook's whole context."""
        if self._same_machine:
            for name in os.environ.keys() - context["env"].keys():
                del os.environ[name]  # of the fork server, which started with an older environment
        self.follow(context)

    def follow(self, changes: dict[str, Any]) -> None:
        """Take over what changed; a variable that is None is taken out of the environment."""
        if "cwd" in changes and (self._same_machine or Path(changes["cwd"]).is_dir()):
            os.chdir(changes["cwd"])
        if "path" in changes:
            sys.path[:] = self._path(changes["path"])
        if changes.get("matmul"):
            torch.set_float32_matmul_precision(changes["matmul"])
        for name, value in changes.get("env", {}).items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    def _path(self, of_notebook: list[str]) -> list[str]:
        if self._same_machine:
            return of_notebook
        there = [entry for entry in of_notebook if not entry or Path(entry).exists()]
        return [*there, *(entry for entry in self._own_path if entry not in there)]


def rank_environment(spec: dict[str, Any]) -> dict[str, str]:
    """Return the variables that torchrun would set for this rank, and the interface to use.

    See https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables.
    """
    rank, world_size = spec["rank"], spec["world_size"]
    local_rank, of_node = spec["local_rank"], spec["local_world_size"]
    threads = max(1, usable_cpus() // of_node)
    env = {
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
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
        "ACCELNB_RANK": f"{os.getpid()}:{rank}",
        environment.DEVICE: spec["device"],
    }
    if spec["interface"]:
        env["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", spec["interface"])
    if spec["device"] == "cpu":
        env[environment.USE_CPU] = "true"
    return {name: str(value) for name, value in env.items()}
