"""Sharded models after a pass that was cut short, and on a new process group.

An interrupt or an error in a backward pass leaves an FSDP2 model that goes on with wrong gradients
and says nothing. Here it is made whole: its weights are those of the last optimizer step, and its
gradients are gone, for they are of some parameters only, and not of the same ones on all ranks.
"""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from accelnb.errors import AccelnbError
from accelnb.training.dtensors import dtensors_in_use, has_dtensors

_STATE = "torch.distributed.fsdp._fully_shard._fsdp_state"
_REFUSED, _BEGUN = "_accelnb_refusal", "_accelnb_sharding_begun"


def repair_after_stop() -> bool:
    """Begin anew with all models of this process if any is sharded; return whether one is.

    Every rank calls it after a cell that was stopped on some ranks, wherever each of them was:
    weights of which several ranks have a copy would part if the gradients of some were kept. So
    all gradients are dropped, and accumulations begin anew.
    """
    if not dtensors_in_use() or not _has_sharded_parameters():
        return False
    from accelnb.training.gradients import Accumulation

    for root in _roots_of_process():
        _begin_anew(root)
    for parameter in [*_living(nn.Parameter), *_living(_dtensor())]:
        if parameter.is_leaf:
            parameter.grad = None
    for accumulation in _living(Accumulation):
        accumulation.step = 0
    return True


def repair_half_done(models: Iterable[nn.Module] | None = None) -> int:
    """Begin anew with FSDP2 models whose pass was cut short; return how many these were.

    Parameters
    ----------
    models
        Where to look; by default all of this process.
    """
    if not dtensors_in_use():
        return 0
    roots = list(_roots_of_process() if models is None else _roots_in(models))
    half_done = [root for root in roots if _is_half_done(root)]
    for root in half_done:
        _begin_anew(root)
    return len(half_done)


def refuse_half_done(models: Iterable[nn.Module]) -> None:
    """Refuse a backward pass of a model whose last one was cut short.

    Raises
    ------
    AccelnbError
        There is one. It is repaired: the next forward and backward pass are right.
    """
    if (fsdp := sys.modules.get("torch.distributed.fsdp")) is None:
        return
    sharded: list[nn.Module] = []
    for model in models:  # at each step: no call more than is needed
        inner = model.__dict__["_modules"].get("_orig_mod", model)
        if isinstance(inner, fsdp.FSDPModule):
            sharded.append(inner)
    if not sharded or torch._C._current_graph_task_id() != -1:  # called in a backward pass
        return
    left = [root for root in _roots_in(sharded) if _backward_was_left(root)]
    for root in left:
        _begin_anew(root)
    if left:
        raise AccelnbError(
            "an earlier backward pass of this model was cut short, and this one would compute "
            "wrong gradients: its gradients were dropped; compute the loss again"
        )


@contextmanager
def cut_short_is_refused(model: nn.Module) -> Iterator[None]:
    """In the block a model is sharded. Refuse it if that was done before, and not to its end.

    Raises
    ------
    AccelnbError
        A part of its weights would never be averaged.
    """
    marked = vars(model)
    if _BEGUN in marked and has_dtensors(model.parameters()):
        raise AccelnbError(
            "this model was cut short in an earlier prepare(), and only a part of it is sharded: "
            "make it anew, then prepare it"
        )
    marked[_BEGUN] = True
    try:
        yield
    except AccelnbError:  # it says so before it changes anything
        del marked[_BEGUN]
        raise
    del marked[_BEGUN]


def join_new_groups(renewed: dict[str, Any]) -> None:
    """Have meshes and FSDP2 models use process groups that were made again under their old names.

    Parameters
    ----------
    renewed
        The groups of now, by name, the default one too.
    """
    if not dtensors_in_use():
        return
    from torch.distributed.device_mesh import DeviceMesh

    for mesh in _living(DeviceMesh):
        for name in getattr(mesh, "_dim_group_names", ()):
            if name in renewed and name in (registry := mesh._get_root_mesh()._pg_registry):
                registry[name] = renewed[name]
    _replace_groups(lambda name: renewed.get(name) or EndedGroup())


def leave_old_groups() -> None:
    """Have models say that their process groups ended, and torch forget the meshes of these."""
    if not dtensors_in_use():
        return
    _replace_groups(lambda _: EndedGroup())
    # Of meshes that are equal it would go on to use the first, though its groups are gone.
    for cache in _living(functools._lru_cache_wrapper):
        if (getattr(cache, "__module__", None) or "").startswith("torch.distributed.tensor"):
            cache.cache_clear()
    if clear := getattr(torch._C, "_clear_DTensor_sharding_propagator_cache", None):
        clear()


def _replace_groups(replaced: Callable[[str], Any]) -> None:
    """Replace the process groups that FSDP2 models hold, by their names."""
    from torch.distributed.fsdp._fully_shard._fsdp_common import DataParallelMeshInfo

    for info in _living(DataParallelMeshInfo):
        for part in ("shard", "replicate"):
            if f"{part}_process_group" in vars(info):
                name = info.mesh._dim_group_names[getattr(info, f"{part}_mesh_dim")]
                setattr(info, f"{part}_process_group", replaced(name))
        if vars(info).get("reduce_scatter_process_group") is not None:
            info.reduce_scatter_process_group = None  # that of the shards does as well


class EndedGroup:
    """In place of a process group that ended and was not made again."""

    def __getattr__(self, name: str) -> Any:
        raise AccelnbError(
            "this model is divided over a process group that ended when ranks were interrupted or "
            "lost, and a part of it may be lost too: make the model and shard it again"
        )


def _begin_anew(state: Any) -> None:
    states = state._state_ctx.all_states or [state]  # of one root, which is the first
    module: Any = states[0]._modules[0]
    try:
        for group in (group for state in states for group in _groups(state)):
            group._all_gather_result = None  # else it is waited for, and peers may never come
            for divided in group.fsdp_params:
                divided.to_sharded()  # one by one: the interrupt may have come in between
                if hasattr(divided, "_unsharded_param"):
                    divided._unsharded_param.grad = None  # torch's own reset leaves these
                divided.unsharded_accumulated_grad = None
            group._sharded_state = type(group._sharded_state).SHARDED
        module.reset_iter_state()
    except AttributeError:  # another torch: 2.13 has all this
        _refuse(module)
    for parameter in module.parameters():
        parameter.grad = None


def _refuse(module: nn.Module) -> None:
    if _REFUSED in vars(module):
        return

    def refuse(*_: Any) -> None:
        raise AccelnbError(
            f"a pass of this model was cut short, after which torch {torch.__version__} computes "
            "wrong gradients and cannot be repaired: shard the model again from its state_dict()"
        )

    vars(module)[_REFUSED] = module.register_forward_pre_hook(refuse)


def _is_half_done(root: Any) -> bool:
    idle = "IDLE"
    return _backward_was_left(root) or any(
        state._training_state.name != idle
        or any(group._training_state.name != idle for group in _groups(state))
        for state in root._state_ctx.all_states
    )


def _backward_was_left(root: Any) -> bool:
    return root._state_ctx.post_backward_final_callback_queued


def _groups(state: Any) -> list[Any]:
    several = getattr(state, "_fsdp_param_groups", None)
    found = [state._fsdp_param_group] if several is None else several
    return [group for group in found if group is not None]


def _roots_of_process() -> Iterator[Any]:
    if (module := sys.modules.get(_STATE)) is not None:
        yield from (state for state in _living(module.FSDPState) if state._is_root)


def _roots_in(models: Iterable[nn.Module]) -> Iterator[Any]:
    module = sys.modules.get("torch.distributed.fsdp")
    if module is None:
        return
    for model in models:
        divided: Any = model
        if isinstance(model, module.FSDPModule):
            yield divided._get_fsdp_state()
            continue
        inner: Any  # it is another's model, in which each block may be a root of its own
        for inner in divided.modules():
            if isinstance(inner, module.FSDPModule) and inner._get_fsdp_state()._is_root:
                yield inner._get_fsdp_state()


def _has_sharded_parameters() -> bool:
    return any(one.is_leaf and one.requires_grad for one in _living(_dtensor()))


def _dtensor() -> Any:
    return sys.modules["torch.distributed.tensor"].DTensor


def _living(kind: type) -> list[Any]:
    """Return all objects of a kind, or of one made of it, that there are."""
    classes: dict[type, bool] = {}  # there are a million objects, of some thousand classes
    found = []
    for one in gc.get_objects():
        its_own = type(one)
        if its_own not in classes:
            classes[its_own] = issubclass(its_own, kind)
        if classes[its_own]:
            found.append(one)
    return found
