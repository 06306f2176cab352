"""Names of Accelerate whose features this version does not have.

They can be imported, so that code which only mentions them works, and `isinstance` says False of
everything. What uses one, by a call, gets one line that says what there is instead.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from accelnb.errors import AccelnbError

DEEPSPEED = (
    "DeepSpeed is not in this version; what its ZeRO does, FullyShardedDataParallelPlugin() does, "
    "and with cpu_offload=True from the CPU's memory"
)
MEGATRON = (
    "Megatron-LM is a training framework of its own, which accelnb does not run; "
    "ParallelismConfig(tp_size=..., dp_shard_size=...) divides models by torch"
)
TENSOR_PARALLEL = (
    "it is out of date in Accelerate too; Accelerator(parallelism_config="
    "ParallelismConfig(tp_size=...)) divides layers"
)
_FP8 = (
    "Transformer Engine and MS-AMP are not in this version; Accelerator(mixed_precision='fp8') "
    "trains in fp8 by torchao, and AORecipeKwargs sets it"
)
_LAUNCHING = (
    "accelnb prepares processes itself; start them by `accelnb launch` or, from Python, by "
    "accelnb.launch(function, procs=...)"
)
_SAGEMAKER = "accelnb starts no jobs on SageMaker; on machines of it, `accelnb launch` does"
_SCALER = "an Accelerator makes its own, as Accelerator.scaler, and takes GradScalerKwargs"
_FOLLOWS = "in accelnb optimizers go on with the sharded parameters by themselves: leave it out"
_TIED = "in accelnb tied weights stay tied when they are sharded: leave it out"
_NUMA = "accelnb binds no process to cores; `torchrun --numa-binding=node` does, and numactl"
_XLA = "accelnb installs nothing: pip install 'accelnb[tpu-xla]'"

_NAMES = {
    DEEPSPEED: """
        DeepSpeedEngineWrapper DeepSpeedOptimizerWrapper DeepSpeedPlugin
        DeepSpeedSchedulerWrapper DummyOptim DummyScheduler HfDeepSpeedConfig
        compile_regions_deepspeed get_active_deepspeed_plugin map_pytorch_optim_to_deepspeed
        prepare_deepspeed_cmd_env
    """,
    MEGATRON: """
        AbstractTrainStep BertTrainStep GPTTrainStep MegatronEngine MegatronLMDummyDataLoader
        MegatronLMDummyScheduler MegatronLMOptimizerWrapper MegatronLMPlugin
        MegatronLMSchedulerWrapper T5TrainStep add_model_config_to_megatron_parser
        avg_losses_across_data_parallel_group gather_across_data_parallel_groups
        megatron_lm_initialize megatron_lm_prepare_data_loader
        megatron_lm_prepare_model_optimizer_scheduler megatron_lm_prepare_optimizer
        megatron_lm_prepare_scheduler
    """,
    TENSOR_PARALLEL: "TorchTensorParallelPlugin",
    _FP8: """
        FP8RecipeKwargs MSAMPRecipeKwargs TERecipeKwargs apply_fp8_autowrap
        contextual_fp8_autocast convert_model
    """,
    _LAUNCHING: """
        PrepareForLaunch prepare_multi_gpu_env prepare_simple_launcher_cmd_env prepare_tpu
    """,
    _SAGEMAKER: "prepare_sagemager_args_inputs",
    _SCALER: "get_fsdp2_grad_scaler get_grad_scaler",
    _FOLLOWS: "fsdp2_switch_optimizer_parameters",
    _TIED: "ensure_weights_retied",
    _NUMA: "set_numa_affinity",
    _XLA: "install_xla",
}
_INSTEAD = {name: instead for instead, names in _NAMES.items() for name in names.split()}
__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    *_INSTEAD,
    "GatheredParameters",
    "deepspeed_required",
]


def __getattr__(name: str) -> Any:
    if name not in _INSTEAD:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    make = _class if name[0].isupper() else _function
    value = globals()[name] = make(name, _INSTEAD[name])
    return value


def is_here(value: Any) -> bool:
    """Return whether a name of accelnb stands for something, and not only for one line.

    Examples
    --------
    >>> from accelnb.training.not_here import is_here
    >>> from accelnb.utils import DeepSpeedPlugin, set_seed
    >>> is_here(set_seed), is_here(DeepSpeedPlugin)
    (True, False)
    """
    return getattr(value, "_not_here", None) is None


def _class(name: str, instead: str) -> type:
    said = f"{name}: {instead}"

    def refuse(cls: type, *args: Any, **kwargs: Any) -> Any:
        raise AccelnbError(said)

    members = {"__new__": refuse, "__doc__": said, "__module__": __name__, "_not_here": said}
    return type(name, (), members)


def _function(name: str, instead: str) -> Callable[..., Any]:
    said = f"{name}: {instead}"

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AccelnbError(said)

    refuse.__name__ = refuse.__qualname__ = name
    refuse.__doc__ = said
    refuse._not_here = said  # pyright: ignore[reportFunctionMemberAccess]
    return refuse


def deepspeed_required(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return, of a function that needs DeepSpeed, one that says that it is not here."""
    return _function(function.__name__, DEEPSPEED)


class GatheredParameters(nullcontext[None]):
    """A block in which DeepSpeed's parameters are whole: without DeepSpeed all are, always."""

    def __init__(
        self,
        params: Any,
        modifier_rank: int | None = None,
        fwd_module: Any = None,
        enabled: bool = True,
    ) -> None:
        super().__init__(None)
