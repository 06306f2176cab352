"""Distributed PyTorch from a notebook.

>>> %load_ext accelnb                                                    # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelnb.big_model.auto_device_map import infer_auto_device_map as infer_auto_device_map
    from accelnb.big_model.dispatch import cpu_offload as cpu_offload
    from accelnb.big_model.dispatch import cpu_offload_with_hook as cpu_offload_with_hook
    from accelnb.big_model.dispatch import disk_offload as disk_offload
    from accelnb.big_model.dispatch import dispatch_model as dispatch_model
    from accelnb.big_model.empty_weights import init_empty_weights as init_empty_weights
    from accelnb.big_model.empty_weights import init_on_device as init_on_device
    from accelnb.big_model.layerwise_casting import (
        attach_layerwise_casting_hooks as attach_layerwise_casting_hooks,
    )
    from accelnb.big_model.load_and_dispatch import (
        load_checkpoint_and_dispatch as load_checkpoint_and_dispatch,
    )
    from accelnb.big_model.loading import load_checkpoint_in_model as load_checkpoint_in_model
    from accelnb.engine.failure import RankError as RankError
    from accelnb.errors import AccelnbError as AccelnbError
    from accelnb.notebook.launch_functions import debug_launcher as debug_launcher
    from accelnb.notebook.launch_functions import distributed as distributed
    from accelnb.notebook.launch_functions import launch as launch
    from accelnb.notebook.launch_functions import notebook_launcher as notebook_launcher
    from accelnb.notebook.variables import last_run as last_run
    from accelnb.notebook.variables import pull as pull
    from accelnb.notebook.variables import push as push
    from accelnb.options.config import ConfigError as ConfigError
    from accelnb.options.config import LaunchConfig as LaunchConfig
    from accelnb.training.accelerator import Accelerator as Accelerator
    from accelnb.training.available import is_rich_available as is_rich_available
    from accelnb.training.configuration import AutocastKwargs as AutocastKwargs
    from accelnb.training.configuration import DataLoaderConfiguration as DataLoaderConfiguration
    from accelnb.training.configuration import (
        DistributedDataParallelKwargs as DistributedDataParallelKwargs,
    )
    from accelnb.training.configuration import GradScalerKwargs as GradScalerKwargs
    from accelnb.training.configuration import InitProcessGroupKwargs as InitProcessGroupKwargs
    from accelnb.training.configuration import ProfileKwargs as ProfileKwargs
    from accelnb.training.data.prepare import skip_first_batches as skip_first_batches
    from accelnb.training.display.show import show as show
    from accelnb.training.enums import DDPCommunicationHookType as DDPCommunicationHookType
    from accelnb.training.enums import DistributedType as DistributedType
    from accelnb.training.fsdp_plugin import (
        FullyShardedDataParallelPlugin as FullyShardedDataParallelPlugin,
    )
    from accelnb.training.gradients import GradientState as GradientState
    from accelnb.training.local_sgd import LocalSGD as LocalSGD
    from accelnb.training.logs import get_logger as get_logger
    from accelnb.training.memory import find_executable_batch_size as find_executable_batch_size
    from accelnb.training.not_here import DeepSpeedPlugin as DeepSpeedPlugin
    from accelnb.training.parallelism_config import ParallelismConfig as ParallelismConfig
    from accelnb.training.rng import synchronize_rng_states as synchronize_rng_states
    from accelnb.training.state import AcceleratorState as AcceleratorState
    from accelnb.training.state import PartialState as PartialState
    from accelnb.training.streaming import stream as stream
    from accelnb.training.tracking.base import GeneralTracker as GeneralTracker

__version__ = "0.1.0.dev0"

_HOMES = {
    "Accelerator": "accelnb.training.accelerator",
    "AcceleratorState": "accelnb.training.state",
    "AccelnbError": "accelnb.errors",
    "AutocastKwargs": "accelnb.training.configuration",
    "ConfigError": "accelnb.options.config",
    "DDPCommunicationHookType": "accelnb.training.enums",
    "DataLoaderConfiguration": "accelnb.training.configuration",
    "DeepSpeedPlugin": "accelnb.training.not_here",
    "DistributedDataParallelKwargs": "accelnb.training.configuration",
    "DistributedType": "accelnb.training.enums",
    "FullyShardedDataParallelPlugin": "accelnb.training.fsdp_plugin",
    "GeneralTracker": "accelnb.training.tracking.base",
    "GradScalerKwargs": "accelnb.training.configuration",
    "GradientState": "accelnb.training.gradients",
    "InitProcessGroupKwargs": "accelnb.training.configuration",
    "LaunchConfig": "accelnb.options.config",
    "LocalSGD": "accelnb.training.local_sgd",
    "ParallelismConfig": "accelnb.training.parallelism_config",
    "PartialState": "accelnb.training.state",
    "ProfileKwargs": "accelnb.training.configuration",
    "RankError": "accelnb.engine.failure",
    "attach_layerwise_casting_hooks": "accelnb.big_model.layerwise_casting",
    "cpu_offload": "accelnb.big_model.dispatch",
    "cpu_offload_with_hook": "accelnb.big_model.dispatch",
    "debug_launcher": "accelnb.notebook.launch_functions",
    "disk_offload": "accelnb.big_model.dispatch",
    "dispatch_model": "accelnb.big_model.dispatch",
    "distributed": "accelnb.notebook.launch_functions",
    "find_executable_batch_size": "accelnb.training.memory",
    "get_logger": "accelnb.training.logs",
    "infer_auto_device_map": "accelnb.big_model.auto_device_map",
    "init_empty_weights": "accelnb.big_model.empty_weights",
    "init_on_device": "accelnb.big_model.empty_weights",
    "is_rich_available": "accelnb.training.available",
    "last_run": "accelnb.notebook.variables",
    "launch": "accelnb.notebook.launch_functions",
    "load_checkpoint_and_dispatch": "accelnb.big_model.load_and_dispatch",
    "load_checkpoint_in_model": "accelnb.big_model.loading",
    "notebook_launcher": "accelnb.notebook.launch_functions",
    "pull": "accelnb.notebook.variables",
    "push": "accelnb.notebook.variables",
    "show": "accelnb.training.display.show",
    "skip_first_batches": "accelnb.training.data.prepare",
    "stream": "accelnb.training.streaming",
    "synchronize_rng_states": "accelnb.training.rng",
}
__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import accelnb` alone stays instant."""
    if name not in _HOMES:
        raise AttributeError(f"module 'accelnb' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def load_ipython_extension(shell: Any) -> None:
    """Run by ``%load_ext accelnb``."""
    from accelnb.notebook.extension import load

    load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Run by ``%unload_ext accelnb``."""
    from accelnb.notebook.extension import unload

    unload(shell)
