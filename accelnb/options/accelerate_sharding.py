"""What Accelerate's configuration file says of sharding, as options and as variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from accelnb.options.config import ConfigError, LaunchConfig, options
from accelnb.options.config_file import text_of
from accelnb.options.environment import YES
from accelnb.options.mesh import MESH_DIMENSIONS, Dimensions

if TYPE_CHECKING:
    import yaml

USE_FSDP = "ACCELERATE_USE_FSDP"
USE_PARALLELISM = "ACCELERATE_USE_PARALLELISM_CONFIG"
_PARALLELISM = "PARALLELISM_CONFIG_"
# Those with the name of the key in capitals are left out here.
_VARIABLES = {"fsdp_transformer_layer_cls_to_wrap": "FSDP_TRANSFORMER_CLS_TO_WRAP"}
# What FSDP does in accelnb without being told.
_USUAL = {
    "fsdp_activation_checkpointing": ("false",),
    "fsdp_activation_checkpointing_offload": ("false",),
    "fsdp_backward_prefetch": ("backward_pre",),
    "fsdp_cpu_ram_efficient_loading": ("false",),
    "fsdp_forward_prefetch": ("false",),
    "fsdp_min_num_params": ("0",),
    "fsdp_offload_params": ("false",),
    "fsdp_reshard_after_forward": ("true", "full_shard"),
    "fsdp_sharding_strategy": ("full_shard", "1", "hybrid_shard", "4"),
    "fsdp_state_dict_type": ("sharded_state_dict",),
    "fsdp_sync_module_states": ("true",),
    "fsdp_use_orig_params": ("true",),
    "fsdp_version": ("1", "2"),
}
_WITHIN_GROUPS = ("4", "5", "hybrid_shard", "hybrid_shard_zero2")


def fsdp_variables(fields: Mapping[str, yaml.Node]) -> dict[str, str]:
    """Return ``FSDP_...`` variables as ``accelerate launch`` makes them of ``fsdp_config``."""
    found = {}
    for name, node in fields.items():
        if not name.startswith("fsdp_"):
            raise ConfigError(f"fsdp_config: {name}: its fields begin with fsdp_")
        text = _text(name, node)
        if text is not None:
            found[_VARIABLES.get(name, name.upper())] = text
    return found


def parallelism_variables(fields: Mapping[str, yaml.Node]) -> dict[str, str]:
    """Return ``PARALLELISM_CONFIG_...`` variables of ``parallelism_config``."""
    found = {}
    for name, node in fields.items():
        if not name.startswith(_PARALLELISM.lower()):
            raise ConfigError(f"parallelism_config: {name}: its fields begin with that name")
        text = _text(name, node)
        if text is not None:
            found[name.upper()] = text
    return found


def mesh_of(variables: Mapping[str, str]) -> Dimensions:
    """Return the mesh of which ``PARALLELISM_CONFIG_..._SIZE`` are the sizes.

    Raises
    ------
    ConfigError
        A size is no number.
    """
    sizes = {name: variables.get(f"{_PARALLELISM}{name.upper()}_SIZE") for name in MESH_DIMENSIONS}
    mesh = next(option for option in options(LaunchConfig) if option.name == "mesh")
    given = {name: size for name, size in sizes.items() if size not in (None, "1")}
    return mesh.read(",".join(f"{name}={size}" for name, size in given.items()) or "none")


def strategy_of(variables: Mapping[str, str], mesh: Dimensions) -> str:
    """Return which strategy a file means that asks for FSDP."""
    names = {name for name, _ in mesh}
    if mesh and not names & {"dp_shard", "cp", "sp"}:
        return "ddp"  # the mesh says how: Accelerate asks for FSDP with tp alone, too
    within = variables.get("FSDP_SHARDING_STRATEGY", "").lower() in _WITHIN_GROUPS
    return "hsdp" if "dp_replicate" in names or (within and not mesh) else "fsdp"


def beyond_options(variables: Mapping[str, str]) -> list[str]:
    """Return what no option says, such as ``fsdp_offload_params: true``."""
    found = []
    for variable, text in variables.items():
        name = next((n for n, v in _VARIABLES.items() if v == variable), variable.lower())
        is_size = name.startswith(_PARALLELISM.lower()) and name.endswith("_size")
        is_switch = variable in (USE_FSDP, USE_PARALLELISM)
        if not is_size and not is_switch and text.lower() not in _USUAL.get(name, ()):
            found.append(f"{name}: {text}")
    return found


def _text(name: str, node: yaml.Node) -> str | None:
    text = text_of(name, node)
    if text is None or text.lower() in ("", "none", "null"):
        return None
    if node.tag == "tag:yaml.org,2002:bool":
        return "true" if text.lower() in YES else "false"
    return text
