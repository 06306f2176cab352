"""The configuration file that ``accelerate config`` writes, read as options of accelnb."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from accelnb.devices import DEVICES
from accelnb.options import accelerate_sharding as sharding
from accelnb.options.config import ConfigError, LaunchConfig, options
from accelnb.options.config_file import FileValues, fields, in_line, line_of, text_of
from accelnb.options.mesh import Dimensions

if TYPE_CHECKING:
    import yaml

# Accelerate's name of a way to distribute -> the device that it is of.
_DEVICES = {"TPU": "tpu", "MPS": "mps"} | {
    device.kind: device.name
    for device in DEVICES.values()
    if device.kind != "NO" and not device.stands_for
}
_BY_NAME = {option.name: option for option in options(LaunchConfig)}
_OPTIONS = {
    "num_processes": _BY_NAME["procs"],
    "mixed_precision": _BY_NAME["precision"],
    "gradient_accumulation_steps": _BY_NAME["accumulation"],
}
_YES = ("true", "True", "yes")
_NO = ("false", "False", "no", "NO")
# What a notebook on one machine has no use for.
_WITHOUT_USE = frozenset(
    {
        "debug",
        "machine_rank",
        "main_process_ip",
        "main_process_port",
        "main_training_function",
        "rdzv_backend",
        "same_network",
    }
)
_SHARDING = ("fsdp_config", "parallelism_config", "use_parallelism_config")
# Values that say no more than the default.
_ORDINARY = {
    "compute_environment": "LOCAL_MACHINE",
    "gpu_ids": "all",
    "num_machines": "1",
}


class AccelerateValues(FileValues):
    """Values of options as an Accelerate file gives them.

    Attributes
    ----------
    left_out : list of str
        What of the file was not taken over, such as ``gpu_ids: 0,1``.
    variables : dict
        What ``accelerate launch`` tells the processes of sharding, by environment variable.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.left_out: list[str] = []
        self.variables: dict[str, str] = {}

    @property
    def beyond_options(self) -> list[str]:
        """What only a launch with this file carries, such as ``fsdp_offload_params: true``."""
        return sharding.beyond_options(self.variables)


def default_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where ``accelerate config`` writes its file."""
    cache = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = Path(environ.get("HF_HOME") or Path(cache) / "huggingface").expanduser()
    folder = home / "accelerate"
    as_json = folder / "default_config.json"
    as_yaml = folder / "default_config.yaml"
    return as_json if as_json.exists() and not as_yaml.exists() else as_yaml


def read_accelerate(path: str | os.PathLike[str] | None = None) -> AccelerateValues:
    """Return the options that an Accelerate configuration file, YAML or JSON, gives.

    Parameters
    ----------
    path
        By default where ``accelerate config`` writes.

    Raises
    ------
    ConfigError
        The file cannot be read, or a field of it is wrong; names the line.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from accelnb.options.accelerate_file import read_accelerate
    >>> path = Path(tempfile.mkdtemp(), "config.yaml")
    >>> _ = path.write_text("distributed_type: FSDP\\nnum_processes: 4\\nmixed_precision: bf16\\n")
    >>> values = read_accelerate(path)
    >>> values, values.left_out
    ({'procs': 4, 'precision': 'bf16', 'strategy': 'fsdp'}, [])
    """
    values = AccelerateValues(Path(path or default_path()).expanduser())
    found = dict(fields(values.path))
    for name, node in found.items():
        with in_line(values.path, line_of(node)):
            _take(values, name, node)
    _take_sharding(values, found)
    if any(left.startswith("num_machines") for left in values.left_out):
        values.pop("procs", None)  # they are those of all machines
    if "use_cpu" in found and found["use_cpu"].value in _YES:
        values["device"] = "cpu"
    return values


def _take(values: AccelerateValues, name: str, node: yaml.Node) -> None:
    if name in _WITHOUT_USE or not node.value:
        return
    if name in _SHARDING or (name == "distributed_type" and node.value == "FSDP"):
        return  # `_take_sharding`
    if name == "deepspeed_config":
        _take_accumulation(values, node)
    if not isinstance(node.value, str):  # a list or a mapping of its own
        values.left_out.append(name)
        return
    text = text_of(name, node)
    if name in _OPTIONS and text is not None:
        _set(values, name, text.lower())
    elif text is None or text in (*_NO, _ORDINARY.get(name)) or name == "use_cpu":
        return
    elif name == "distributed_type" and text in _DEVICES:
        values["device"] = _DEVICES[text]
    else:
        values.left_out.append(f"{name}: {text}")


def _take_sharding(values: AccelerateValues, found: Mapping[str, yaml.Node]) -> None:
    """Take what FSDP and a mesh need together."""
    kind, sizes = found.get("distributed_type"), found.get("parallelism_config")
    is_off = "use_parallelism_config" in found and found["use_parallelism_config"].value in _NO
    mesh: Dimensions = ()
    if sizes is not None and sizes.value and not is_off:
        with in_line(values.path, line_of(sizes)):
            variables = sharding.parallelism_variables(_fields_of("parallelism_config", sizes))
            mesh = sharding.mesh_of(variables)
        if mesh:
            values["mesh"] = mesh
            values.variables |= {sharding.USE_PARALLELISM: "true"} | variables
    fsdp = found.get("fsdp_config")
    if kind is None or kind.value != "FSDP":
        values.left_out += ["fsdp_config"] if fsdp is not None and fsdp.value else []
        return
    variables = {}
    if fsdp is not None and fsdp.value:
        with in_line(values.path, line_of(fsdp)):
            variables = sharding.fsdp_variables(_fields_of("fsdp_config", fsdp))
    values["strategy"] = sharding.strategy_of(variables, mesh)
    if values["strategy"] != "ddp":
        values.variables |= {sharding.USE_FSDP: "true"} | variables


def _fields_of(name: str, node: yaml.Node) -> dict[str, yaml.Node]:
    import yaml

    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{name}: must be lines such as {name[:4]}_...: value")
    return {str(key.value): value for key, value in node.value}


def _take_accumulation(values: AccelerateValues, deepspeed: yaml.Node) -> None:
    for key, node in deepspeed.value:
        if key.value == "gradient_accumulation_steps" and node.value != "auto":
            _set(values, key.value, node.value)


def _set(values: AccelerateValues, name: str, text: str) -> None:
    option = _OPTIONS[name]
    values[option.name] = option.read(text)
