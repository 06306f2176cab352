"""Parameters that some processes used in a pass and others did not: experts, or heads of tasks.

torch reduces the gradients that a process has, one behind the other. Where the processes have not
the same ones it adds up gradients of different parameters, or fails by their size.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd.variable import Variable

from accelnb.errors import AccelnbError


def reduce_as_if_used(model: nn.Module) -> None:
    """Have what a process did not use count as zeros in the average of a sharded model's gradients.

    What no process used has no gradient after the pass, as in one process: optimizers leave it as
    it is. A pass of which the gradients are to be differentiated is refused.
    """
    from torch.distributed.fsdp import FSDPModule

    for part in model.modules():
        if isinstance(part, FSDPModule):
            for group in part._get_fsdp_state()._fsdp_param_groups:
                vars(group)["post_backward"] = torch.compiler.disable(partial(_reduce, group))


def _reduce(group: Any, *_: Any) -> None:
    if torch.is_grad_enabled():
        raise AccelnbError(
            "create_graph=True: FSDP has no gradients of gradients, as of a gradient penalty, and "
            "would compute wrong ones: train this model with --strategy ddp"
        )
    filled = _fill(group) if group.reduce_grads else []
    type(group).post_backward(group)
    if filled:  # gradients are there once torch's own callback is done, which was queued before
        Variable._execution_engine.queue_callback(partial(_forget, filled))


def _fill(group: Any) -> list[Any]:
    """Give gradients to what has none; return what it is.

    They are of negative zeros. These add up to negative zeros only where all processes gave them:
    a sum with one positive zero is positive.
    """
    trained = [
        each
        for each in group.fsdp_params
        if hasattr(each, "_unsharded_param") and each.unsharded_param.requires_grad
    ]
    unused = [
        each
        for each in trained
        if each.unsharded_param.numel()
        and each.unsharded_param.grad is None
        and each.unsharded_accumulated_grad is None
    ]
    computed = group._training_state.name == "PRE_BACKWARD" or len(unused) < len(trained)
    if not computed and not group.reduce_scatter_unused_params:
        return []  # it had no part in the pass: torch reduces nothing of it
    for each in unused:
        each.unsharded_param.grad = torch.full_like(each.unsharded_param, -0.0)
    return unused


@torch.no_grad()
def _forget(filled: list[Any]) -> None:
    """Take away the gradients of what no process used."""
    for each in filled:
        gradient = each.sharded_param.grad
        if gradient is not None and _is_negative_zero(gradient.to_local()):
            each.sharded_param.grad = None


def _is_negative_zero(part: torch.Tensor) -> bool:
    return bool(((part == 0) & part.signbit()).all())
