"""What can be set about fully sharded data parallelism: Accelerate's names, run as FSDP2."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from accelnb.errors import AccelnbError
from accelnb.training.constants import FSDP_AUTO_WRAP_POLICY as POLICIES
from accelnb.training.constants import FSDP_BACKWARD_PREFETCH as PREFETCHES
from accelnb.training.constants import FSDP_SHARDING_STRATEGY as STRATEGIES
from accelnb.training.constants import FSDP_STATE_DICT_TYPE as STATE_DICTS
from accelnb.training.fsdp_values import choice, dtype, flag, resharding
from accelnb.training.fsdp_values import mixed_precision_policy as as_policy

_POLICIES = ["REPEATED_BLOCKS", *POLICIES]
_FLAGS = (
    "use_orig_params",
    "sync_module_states",
    "forward_prefetch",
    "activation_checkpointing",
    "activation_checkpointing_offload",
    "cpu_ram_efficient_loading",
)
# What launchers call a field; others have its own name.
_VARIABLES = {
    "fsdp_version": "VERSION",
    "cpu_offload": "OFFLOAD_PARAMS",
    "transformer_cls_names_to_wrap": "TRANSFORMER_CLS_TO_WRAP",
}


@dataclass
class FullyShardedDataParallelPlugin:
    """How models are sharded over processes, by FSDP2 (``torch.distributed.fsdp.fully_shard``).

    What is not given comes from the variables ``FSDP_...`` that launchers set. What was asked of
    version 1 is done by version 2; one warning says what that changes.

    Attributes
    ----------
    fsdp_version : int
        2. A request for 1 runs as 2.
    sharding_strategy : str, int or torch.distributed.fsdp.ShardingStrategy, optional
        Of version 1: ``FULL_SHARD`` and ``SHARD_GRAD_OP`` are `reshard_after_forward` on and off;
        the ``HYBRID_`` ones need a mesh with ``dp_replicate``.
    reshard_after_forward : bool or int
        Free a unit's gathered weights after its forward pass and gather them again for its
        backward pass; a number divides them among as many ranks instead. What is in no unit stays
        gathered in between, for the backward pass begins there.
    backward_prefetch, limit_all_gathers, use_orig_params : optional
        Of version 1; version 2 does what ``BACKWARD_PRE``, True and True mean.
    mixed_precision_policy : str, dict or torch.distributed.fsdp.MixedPrecisionPolicy, optional
        In which types weights are gathered and gradients reduced. By default in their own, or
        with an Accelerator of bf16 or fp16 in that, with gradients reduced in fp32.
    auto_wrap_policy : str or callable, optional
        Which modules are units, gathered one at a time: ``repeated_blocks`` (the default: those
        that the model names in ``_no_split_modules``, else the blocks in its lists),
        ``transformer_based_wrap``, ``size_based_wrap``, ``no_wrap`` or a policy of
        ``torch.distributed.fsdp.wrap``.
    cpu_offload : bool or torch.distributed.fsdp.CPUOffloadPolicy, optional
        Keep shards, their gradients and optimizer states in the memory of the CPU.
    ignored_modules : iterable of nn.Module, or str, optional
        Modules whose parameters stay whole, or a regular expression of their names. Their
        gradients are averaged all the same.
    state_dict_type : str, int or torch.distributed.fsdp.StateDictType
        Whether checkpoints are ``SHARDED_STATE_DICT`` (each rank writes its part) or
        ``FULL_STATE_DICT``.
    state_dict_config, optim_state_dict_config : optional
        As torch's classes for these; whole state dicts always come to the CPU.
    param_init_fn : callable, optional
        Called with each module that has weights on the meta device, to give it memory.
    sync_module_states : bool, optional
        Begin with rank 0's weights on all ranks, as DDP does. True unless it is said to be False.
    forward_prefetch : bool
        Gather the next unit's weights before a unit computes.
    activation_checkpointing : bool
        Compute the activations of units again in the backward pass.
    activation_checkpointing_offload : bool
        And keep what these begin with in the memory of the CPU.
    cpu_ram_efficient_loading : bool
        All ranks begin with what rank 0 has read; transformers is told that others need no values.
    transformer_cls_names_to_wrap : list of str, optional
        Classes of units, for ``transformer_based_wrap``; by default the model's
        ``_no_split_modules``.
    min_num_params : int, optional
        For ``size_based_wrap``: parameters that a unit has at least.

    Raises
    ------
    AccelnbError
        A value is unknown, or FSDP2 has nothing like it.

    Examples
    --------
    >>> from accelnb.utils import FullyShardedDataParallelPlugin
    >>> plugin = FullyShardedDataParallelPlugin(reshard_after_forward=False)
    >>> plugin.fsdp_version, plugin.auto_wrap_policy
    (2, 'REPEATED_BLOCKS')
    """

    fsdp_version: int | None = None
    sharding_strategy: Any = None
    reshard_after_forward: Any = None
    backward_prefetch: Any = None
    mixed_precision_policy: Any = None
    auto_wrap_policy: Callable[..., bool] | str | None = None
    cpu_offload: Any = None
    ignored_modules: Iterable[Any] | str | None = None
    state_dict_type: Any = None
    state_dict_config: Any = None
    optim_state_dict_config: Any = None
    limit_all_gathers: bool = True
    use_orig_params: bool | None = None
    param_init_fn: Callable[[Any], None] | None = None
    sync_module_states: bool | None = None
    forward_prefetch: bool | None = None
    activation_checkpointing: bool | None = None
    activation_checkpointing_offload: bool | None = None
    cpu_ram_efficient_loading: bool | None = None
    transformer_cls_names_to_wrap: list[str] | None = None
    min_num_params: int | None = None

    def __post_init__(self) -> None:
        changes: list[str] = []
        says_how_to_load = self.cpu_ram_efficient_loading is not None
        says_a_size = self.min_num_params is not None  # launchers always do
        self._read_environment()
        if self.fsdp_version not in (None, 1, 2, "1", "2"):
            raise AccelnbError(f"fsdp_version={self.fsdp_version}: it is 1 or 2")
        if self.fsdp_version in (1, "1"):
            changes.append("fsdp_version=1 runs as FSDP2")
        self.fsdp_version = 2
        self._set_resharding(changes)
        self._drop_what_version_1_had(changes)
        self.set_cpu_offload()
        self.set_state_dict_type()
        self._set_units(says_a_size, changes)
        if self.mixed_precision_policy is not None:
            self.mixed_precision_policy = as_policy(self.mixed_precision_policy, changes)
        if isinstance(self.ignored_modules, Iterable) and not isinstance(self.ignored_modules, str):
            self.ignored_modules = list(self.ignored_modules)
        for name in ("forward_prefetch", "activation_checkpointing", *_FLAGS[-2:]):
            setattr(self, name, bool(getattr(self, name)))
        if self.activation_checkpointing_offload and not self.activation_checkpointing:
            raise AccelnbError(
                "activation_checkpointing_offload=True: it offloads what "
                "activation_checkpointing=True keeps, which is off"
            )
        if says_how_to_load:
            _tell_transformers(bool(self.cpu_ram_efficient_loading))
        if changes:
            said = "; ".join(changes)
            warnings.warn(f"FullyShardedDataParallelPlugin: {said}", stacklevel=3)

    @property
    def needs_replicas(self) -> bool:
        """Whether it was asked to shard within groups of ranks that hold copies (HSDP)."""
        return "HYBRID" in str(self.sharding_strategy)

    @property
    def saves_whole(self) -> bool:
        """Whether checkpoints hold whole weights, written by rank 0 (``FULL_STATE_DICT``)."""
        return "FULL" in str(self.state_dict_type)

    # ---- names of Accelerate ----

    def set_mixed_precision(
        self, mixed_precision: Any, buffer_autocast: bool = False, override: bool = False
    ) -> None:
        """Gather, reduce and return in a type, unless there is a policy already.

        `buffer_autocast` is of version 1: version 2 leaves buffers as they are.
        """
        if override or self.mixed_precision_policy is None:
            self.mixed_precision_policy = as_policy(dtype(mixed_precision), [])

    def set_auto_wrap_policy(self, model: Any) -> None:
        """Make `auto_wrap_policy` what torch calls one, for a model; None if all is one unit."""
        from torch.distributed.fsdp import wrap

        if self.auto_wrap_policy == "TRANSFORMER_BASED_WRAP":
            self.auto_wrap_policy = partial(
                wrap.transformer_auto_wrap_policy, transformer_layer_cls=self.unit_classes(model)
            )
        elif self.auto_wrap_policy == "SIZE_BASED_WRAP":
            self.auto_wrap_policy = partial(
                wrap.size_based_auto_wrap_policy, min_num_params=self.min_num_params or 0
            )

    def set_state_dict_type(self, state_dict_type: Any = None) -> None:
        """Choose how checkpoints are written."""
        from torch.distributed import fsdp

        wanted = state_dict_type or self.state_dict_type or "SHARDED_STATE_DICT"
        self.state_dict_type = kind = choice(
            "state_dict_type", wanted, fsdp.StateDictType, STATE_DICTS
        )
        if kind == fsdp.StateDictType.LOCAL_STATE_DICT:
            raise AccelnbError(
                "state_dict_type=LOCAL_STATE_DICT: FSDP2 has SHARDED_STATE_DICT and FULL_STATE_DICT"
            )
        whole = kind == fsdp.StateDictType.FULL_STATE_DICT
        given = {"offload_to_cpu": True} | ({"rank0_only": True} if whole else {})
        of_model = fsdp.FullStateDictConfig if whole else fsdp.ShardedStateDictConfig
        of_optimizer = fsdp.FullOptimStateDictConfig if whole else fsdp.ShardedOptimStateDictConfig
        if not isinstance(self.state_dict_config, of_model):
            self.state_dict_config = of_model(**given)
        if not isinstance(self.optim_state_dict_config, of_optimizer):
            self.optim_state_dict_config = of_optimizer(**given)

    def set_cpu_offload(self) -> None:
        """Make `cpu_offload` a policy of torch."""
        from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy

        wanted = self.cpu_offload
        if not isinstance(wanted, OffloadPolicy):
            wanted = getattr(wanted, "offload_params", wanted)  # CPUOffload of version 1
            self.cpu_offload = (
                CPUOffloadPolicy() if flag("cpu_offload", wanted) else OffloadPolicy()
            )

    def unit_classes(self, model: Any) -> set[type]:
        """Return the classes that ``transformer_based_wrap`` makes units of.

        Raises
        ------
        AccelnbError
            The model has no module of such a class.
        """
        there = {type(part).__name__: type(part) for part in model.modules()}
        wanted = self.transformer_cls_names_to_wrap
        if wanted is None:
            wanted = [kind.__name__ for kind in self.no_split_classes(model)]
        if not wanted:
            raise AccelnbError(
                f"auto_wrap_policy=transformer_based_wrap: this {type(model).__name__} does not "
                "say what its blocks are (_no_split_modules): name the classes of its units in "
                f"transformer_cls_names_to_wrap, of {', '.join(there)}"
            )
        if missing := [name for name in wanted if name not in there]:
            raise AccelnbError(
                f"Could not find the transformer layer class {', '.join(missing)} in the model. "
                f"transformer_cls_names_to_wrap takes classes of its modules: {', '.join(there)}"
            )
        return {there[name] for name in wanted}

    @staticmethod
    def no_split_classes(model: Any) -> set[type]:
        """Return the classes that a model of transformers names as its blocks."""
        parts = [getattr(part, "_no_split_modules", None) or () for part in model.modules()]
        named = {name for names in parts for name in names}
        return {type(part) for part in model.modules() if type(part).__name__ in named}

    # ---- what was given, made what is used ----

    def _read_environment(self) -> None:
        for field in dataclasses.fields(self):
            variable = f"FSDP_{_VARIABLES.get(field.name, field.name.upper())}"
            if getattr(self, field.name) is None and (text := os.environ.get(variable)):
                setattr(self, field.name, text)
        for name in _FLAGS:
            setattr(self, name, flag(name, getattr(self, name)))
        names = self.transformer_cls_names_to_wrap
        if isinstance(names, str):
            self.transformer_cls_names_to_wrap = [name.strip() for name in names.split(",")]

    def _set_resharding(self, changes: list[str]) -> None:
        from torch.distributed.fsdp import ShardingStrategy

        given = self.reshard_after_forward
        as_strategy = isinstance(given, ShardingStrategy) or str(given).upper() in STRATEGIES
        wanted = given if as_strategy else self.sharding_strategy
        of_launcher = not as_strategy and given is not None and not changes  # version 2, from there
        if wanted is None or of_launcher:
            self.sharding_strategy = None
            self.reshard_after_forward = resharding(given)
            return
        strategy = choice("sharding_strategy", wanted, ShardingStrategy, STRATEGIES)
        if strategy == ShardingStrategy.NO_SHARD:
            raise AccelnbError(
                "sharding_strategy=NO_SHARD shards nothing: leave the plugin out (strategy ddp)"
            )
        self.sharding_strategy = strategy
        self.reshard_after_forward = strategy.name in ("FULL_SHARD", "HYBRID_SHARD")
        if strategy != ShardingStrategy.FULL_SHARD:
            name, where = strategy.name.strip("_"), " with dp_replicate" * self.needs_replicas
            changes.append(f"{name} is reshard_after_forward={self.reshard_after_forward}{where}")

    def _drop_what_version_1_had(self, changes: list[str]) -> None:
        from torch.distributed.fsdp import BackwardPrefetch

        if self.backward_prefetch is not None:
            wanted = self.backward_prefetch
            if not str(wanted).upper().startswith("NO_PREFETCH"):
                wanted = choice("backward_prefetch", wanted, BackwardPrefetch, PREFETCHES)
            if wanted != BackwardPrefetch.BACKWARD_PRE:
                changes.append("backward_prefetch: FSDP2 prefetches as BACKWARD_PRE does")
        if not self.limit_all_gathers:
            changes.append("limit_all_gathers: FSDP2 always limits them")
        if self.use_orig_params is False:
            changes.append("use_orig_params: FSDP2 always uses the original parameters")
        for name in ("state_dict_config", "optim_state_dict_config"):
            if getattr(getattr(self, name), "offload_to_cpu", True) is False:
                changes.append(f"{name}: whole state dicts come to the CPU, one tensor at a time")
        self.backward_prefetch = self.use_orig_params = None
        self.limit_all_gathers = True

    def _set_units(self, says_a_size: bool, changes: list[str]) -> None:
        names = self.transformer_cls_names_to_wrap
        policy = self.auto_wrap_policy
        if policy is None:
            by_name = "TRANSFORMER_BASED_WRAP" if names else "REPEATED_BLOCKS"
            policy = "SIZE_BASED_WRAP" if says_a_size and not names else by_name
        if isinstance(policy, str):
            policy = policy.upper()
            if policy not in _POLICIES:
                raise AccelnbError(
                    f"auto_wrap_policy={policy.lower()}: it is a callable or one of "
                    f"{', '.join(_POLICIES).lower()}"
                )
        elif not callable(policy):
            raise AccelnbError(f"auto_wrap_policy: {type(policy).__name__} is not callable")
        if self.min_num_params is not None:
            try:
                self.min_num_params = int(float(self.min_num_params))
            except (TypeError, ValueError):
                raise AccelnbError(
                    f"min_num_params={self.min_num_params!r}: give a number"
                ) from None
        if names and policy != "TRANSFORMER_BASED_WRAP":
            changes.append("transformer_cls_names_to_wrap is for transformer_based_wrap only")
        if says_a_size and policy != "SIZE_BASED_WRAP":
            changes.append("min_num_params is for size_based_wrap only")
        nothing_to_find = policy == "SIZE_BASED_WRAP" and not self.min_num_params
        self.auto_wrap_policy = None if policy == "NO_WRAP" or nothing_to_find else policy


# What a plugin has set of the environment, and not the launch.
_set_here: set[str] = set()


def _tell_transformers(efficient: bool) -> None:
    """Have ``from_pretrained`` read weights on the first rank of each machine only, or on all."""
    forget_what_was_set()
    told = {"FSDP_CPU_RAM_EFFICIENT_LOADING": str(efficient)}
    if efficient:
        told["ACCELERATE_USE_FSDP"] = "true"
    _set_here.update(told.keys() - os.environ.keys())
    os.environ.update(told)


def forget_what_was_set() -> None:
    """Take back what a plugin has set of the environment: it is not for the Accelerators after."""
    for name in _set_here:
        os.environ.pop(name, None)
    _set_here.clear()
