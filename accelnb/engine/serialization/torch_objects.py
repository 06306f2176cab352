"""Objects of torch that pickle refuses."""

from __future__ import annotations

import functools
import io
import pickle
import sys
from typing import Any


def generator(obj: Any) -> Any:
    import torch

    if obj is torch.default_generator:
        return getattr, (torch, "default_generator")
    return _rebuild_generator, (obj.device.type, obj.get_state())


def _rebuild_generator(device_type: str, state: Any) -> Any:
    import torch

    made = torch.Generator(_here(device_type))
    made.set_state(state)
    return made


def operator(obj: Any) -> Any:
    """Send e.g. `torch.ops.aten.relu` or `torch.ops.aten.relu.default` by its name."""
    return _rebuild_operator, (str(obj),)


def _rebuild_operator(name: str) -> Any:
    import torch

    return functools.reduce(getattr, name.split("."), torch.ops)


def number_info(obj: Any) -> Any:
    import torch

    return type(obj), (getattr(torch, obj.dtype),)


def script(obj: Any) -> Any:
    """Send a scripted or traced module or function as `torch.jit.save` writes it."""
    file = io.BytesIO()
    import torch

    torch.jit.save(obj, file)
    parameters = list(obj.parameters()) if isinstance(obj, torch.nn.Module) else []
    device_type = parameters[0].device.type if parameters else "cpu"
    is_function = not isinstance(obj, torch.nn.Module)
    return _rebuild_script, (pickle.PickleBuffer(file.getvalue()), device_type, is_function)


def _rebuild_script(saved: Any, device_type: str, is_function: bool) -> Any:
    import torch

    made = torch.jit.load(io.BytesIO(saved), map_location=_here(device_type))
    return made.forward if is_function else made


def _here(device_type: str) -> Any:
    from accelnb.engine.serialization import pack

    device = pack._own_device
    return device if device is not None and device.type == device_type else "cpu"


def compiled_function(function: Any, reduced: Any) -> Any:
    """Send what `torch.compile` made of a function as that function, to be compiled there."""
    eval_frame = sys.modules["torch._dynamo.eval_frame"]
    for cell in function.__closure__ or ():
        if isinstance(cell.cell_contents, eval_frame._TorchDynamoContext):
            return _compile, (cell.cell_contents, function._torchdynamo_orig_callable)
    return reduced


def _compile(context: Any, function: Any) -> Any:
    return context(function)
