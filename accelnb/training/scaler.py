"""The scaler of fp16 gradients, for any number of optimizers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist

from accelnb.training import sharded_gradients as sharded
from accelnb.training.dtensors import has_dtensors


class Scaler(torch.amp.GradScaler):
    """A ``GradScaler`` that adapts its scale when the next loss is scaled, not at each step.

    Several optimizers can so step after one backward pass: each divides its gradients by the
    scale that they were computed with, and once. Where the parameters are DTensors, of any meshes
    and beside plain ones, all processes that hold a part of them agree on what has overflowed:
    they step together, or none does.

    Examples
    --------
    >>> import torch
    >>> from accelnb.training.scaler import Scaler
    >>> scaler = Scaler("cpu", init_scale=8.0)
    >>> weight = torch.ones(1, requires_grad=True)
    >>> optimizer = torch.optim.SGD([weight], lr=0.5)
    >>> scaler.scale(weight.sum()).backward()
    >>> scaler.step(optimizer)
    >>> weight
    tensor([0.5000], requires_grad=True)
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unscaled: set[int] = set()  # optimizers, by id, since the scale was last adapted
        self._stepped = False  # one of them

    def scale(self, outputs: Any) -> Any:
        if self._unscaled:
            self.update()
        return super().scale(outputs)

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        super().unscale_(optimizer)
        self._unscaled.add(id(optimizer))

    def _unscale_grads_(
        self,
        optimizer: torch.optim.Optimizer,
        inv_scale: torch.Tensor,
        found_inf: torch.Tensor,
        allow_fp16: bool,
    ) -> dict[torch.device, torch.Tensor]:
        if not has_dtensors(_parameters(optimizer)):
            return super()._unscale_grads_(optimizer, inv_scale, found_inf, allow_fp16)
        held = _held_gradients(optimizer)
        if any(torch.float16 in by_dtype for by_dtype in held.values()) and not allow_fp16:
            raise ValueError("Attempting to unscale FP16 gradients.")
        with torch.no_grad():
            for device, by_dtype in held.items():
                found, factor = torch.zeros_like(found_inf, device=device), inv_scale.to(device)
                for parts in by_dtype.values():
                    torch._amp_foreach_non_finite_check_and_unscale_(parts, found, factor)
                found_inf += found.to(found_inf.device)
            self._agree(found_inf, sharded.groups_around(_parameters(optimizer)))
        return {found_inf.device: found_inf}

    def _agree(self, found_inf: torch.Tensor, groups: Iterable[str]) -> None:
        """Have all processes of the groups leave out the step if any has to, or scales differ.

        Where a cell was stopped, some may have adapted their scale to a step and others not yet.
        """
        assert self._scale is not None
        told = torch.stack([found_inf, self._scale, -self._scale])
        for group in groups:
            dist.all_reduce(told, dist.ReduceOp.MAX, group=sharded.group_named(group))
        found, largest, smallest = told[0], told[1], -told[2]
        found_inf.copy_(torch.maximum(found, (largest != smallest).float()))
        self._scale.copy_(smallest)

    def unscale_once(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide an optimizer's gradients by the scale, if that was not done since `scale`."""
        if id(optimizer) not in self._unscaled:
            self.unscale_(optimizer)

    def overflowed(self, optimizer: torch.optim.Optimizer) -> bool:
        """Return whether unscaled gradients are infinite or nan: `step` then does nothing."""
        # To compare the scale before and after would wait for the step of the optimizer.
        if not self.is_enabled():
            return False
        return any(bool(found) for found in self._found_inf_per_device(optimizer).values())

    def step(self, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
        self.unscale_once(optimizer)
        self._stepped = True
        return super().step(optimizer, *args, **kwargs)

    def update(self, new_scale: float | torch.Tensor | None = None) -> None:
        super().update(new_scale)
        self._unscaled.clear()
        self._stepped = False

    # ---- what is asked for between two steps is that of the next ----

    def get_scale(self) -> float:
        self._settle()
        return super().get_scale()

    def state_dict(self) -> dict[str, Any]:
        self._settle()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._settle()
        super().load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        self._settle()
        return super().__getstate__()

    def _settle(self) -> None:
        if self._stepped:
            self.update()


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def _held_gradients(
    optimizer: torch.optim.Optimizer,
) -> dict[torch.device, dict[torch.dtype, list[torch.Tensor]]]:
    """Return what this process holds of the gradients, by device and dtype."""
    held: dict[torch.device, dict[torch.dtype, list[torch.Tensor]]] = {}
    for parameter in _parameters(optimizer):
        part = sharded.held_gradient(parameter)
        if part is not None:
            values = part._values() if part.is_sparse else part
            held.setdefault(part.device, {}).setdefault(part.dtype, []).append(values)
    return held
