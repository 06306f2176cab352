"""The configuration file of ``accelerate config``, by the names of ``accelerate.commands.config``.

`accelerate_file` reads it as options of accelnb; here it is what libraries show and write.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelnb.devices import DEVICES
from accelnb.devices.hardware import probe
from accelnb.options.accelerate_file import default_path, read_accelerate
from accelnb.options.config import ConfigError

default_config_file = str(default_path())
cache_dir = os.path.dirname(default_config_file)
default_json_config_file = default_yaml_config_file = os.path.join(cache_dir, "default_config.yaml")

_PRECISIONS = ("no", "fp16", "bf16", "fp8")
_ORDINARY = {
    "compute_environment": "LOCAL_MACHINE",
    "distributed_type": "NO",
    "mixed_precision": "no",
    "use_cpu": False,
    "debug": False,
    "num_processes": -1,
    "num_machines": 1,
    "machine_rank": 0,
    "main_training_function": "main",
    "rdzv_backend": "static",
}
_PARTS = (
    *("deepspeed_config", "dynamo_config", "fp8_config", "fsdp_config", "megatron_lm_config"),
    *("mpirun_config", "parallelism_config"),
)
_UNSAID = (
    *("downcast_bf16", "enable_cpu_affinity", "gpu_ids", "main_process_ip", "main_process_port"),
    *("same_network", "tpu_env", "tpu_name", "tpu_use_cluster", "tpu_use_sudo", "tpu_vm"),
    *("tpu_zone", "command_file", "commands"),
)


class ClusterConfig:
    """What such a file says; each field is an attribute.

    Examples
    --------
    >>> from accelnb.options.accelerate_config import ClusterConfig
    >>> config = ClusterConfig(distributed_type="FSDP", num_processes=2)
    >>> config.num_processes, config.machine_rank
    (2, 0)
    """

    def __init__(self, **fields: Any) -> None:
        unsaid = {**dict.fromkeys(_UNSAID), **{name: {} for name in _PARTS}}
        self.__dict__.update(unsaid | _ORDINARY | fields)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that have a value."""
        return {name: value for name, value in vars(self).items() if value not in (None, {})}

    def to_json_file(self, json_file: str | os.PathLike[str]) -> None:
        """Write the file as JSON."""
        Path(json_file).write_text(json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n")

    def to_yaml_file(self, yaml_file: str | os.PathLike[str]) -> None:
        """Write the file as YAML."""
        Path(yaml_file).write_text(as_yaml(self.to_dict()))


def load_config_from_file(config_file: str | os.PathLike[str] | None = None) -> ClusterConfig:
    """Return what a configuration file says, YAML or JSON.

    Parameters
    ----------
    config_file
        By default where ``accelerate config`` writes.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ConfigError
        A field of it is wrong; names the line.
    """
    path = Path(config_file or default_path())
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; `accelerate config` and write_basic_config() write one, and "
            "`accelnb launch` needs none"
        )
    return ClusterConfig(**fields_of(path))


def fields_of(path: Path) -> dict[str, Any]:
    """Return the fields of a file as they are, checked as those of a launch are."""
    import yaml

    read_accelerate(path)
    return yaml.safe_load(path.read_text()) or {}


def as_yaml(fields: Mapping[str, Any]) -> str:
    """Return fields as the text of a file."""
    import yaml

    return yaml.safe_dump(dict(fields))


def write_basic_config(
    mixed_precision: str = "no", save_location: str | os.PathLike[str] = default_json_config_file
) -> Path | bool:
    """Write a configuration file for all accelerators of this machine; return its path.

    accelnb needs none: it is for ``accelerate launch`` and for programs that look for the file.

    Returns
    -------
    path : Path or bool
        False if there is a file already, which is not changed.

    Raises
    ------
    ConfigError
        The precision is unknown.

    Examples
    --------
    >>> import tempfile
    >>> from accelnb.utils import write_basic_config
    >>> write_basic_config("bf16", tempfile.mkdtemp() + "/config.yaml").name
    'config.yaml'
    """
    path = Path(save_location)
    if path.exists():
        print(f"{path} is there already and stays as it is: remove it, or give save_location")
        return False
    if mixed_precision.lower() not in _PRECISIONS:
        raise ConfigError(
            f"mixed_precision={mixed_precision}: choose one of {', '.join(_PRECISIONS)}"
        )
    found = probe()
    device = DEVICES[found.best_device]
    count = 0 if device.name == "cpu" else found.count(device.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    config = ClusterConfig(
        mixed_precision=mixed_precision.lower(),
        use_cpu=not count,
        num_processes=count or 1,
        distributed_type=device.kind if count > 1 else "NO",
    )
    config.to_yaml_file(path)
    return path
