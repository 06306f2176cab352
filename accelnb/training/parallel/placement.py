"""Models on the device of their process."""

from __future__ import annotations

import torch
from torch import nn

from accelnb.devices import records
from accelnb.errors import AccelnbError
from accelnb.training.parallel.mesh import Mesh
from accelnb.training.parallel.meta_start.without_values import without_values
from accelnb.training.parallel.offloaded import offloaded
from accelnb.training.parallel.plan import Plan


def apply_placement(model: nn.Module, mesh: Mesh, plan: Plan) -> nn.Module:
    """Move a model to the device, unless it is to stay where it is."""
    if not plan.device_placement:
        return model
    if not records(mesh.device.type):
        if without_values(model):  # they are given their place with their values
            return model._apply(lambda it: it if it.is_meta else it.to(mesh.device))
        return model.to(mesh.device)
    # A model gets new parameters when it comes to such a device, but in this mode of torch. So
    # optimizers that were made before go on with the model's, and tied weights stay tied.
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        return model.to(mesh.device)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


def check_device_map(on_several_devices: bool, mesh: Mesh) -> None:
    """Refuse a model that lies on several devices where each rank has one."""
    if mesh.size > 1 and on_several_devices:
        raise AccelnbError(
            "a model that was loaded over several devices (device_map='auto'), or keeps weights on "
            "cpu or disk, cannot train on several ranks: load it onto one device, or use one rank"
        )


def lies_on_several_devices(model: nn.Module) -> bool:
    """Return whether a model was loaded over several devices, or has weights kept elsewhere."""
    several = any(len(getattr(part, "hf_device_map", ())) > 1 for part in model.modules())
    return several or bool(offloaded(model))
