"""Objects of torch: tensors with their storages, and what pickle refuses."""

from __future__ import annotations

import ctypes
import functools
import io
import pickle
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any

_own_device: Any = None


def rebuild_on(device: Any) -> None:
    """Have what the notebook has on a device of this type rebuilt on `device` in this process.

    Parameters
    ----------
    device : torch.device
        The rank's own. Without one, as in the notebook, everything is rebuilt on the CPU.
    """
    global _own_device
    _own_device = device


def own_device() -> Any:
    """Return the device that `rebuild_on` was given, if any."""
    return _own_device


class TensorReducer:
    """Reduces the tensors and storages of one pickle.

    Parameters
    ----------
    ranks
        Those that pack their value now; a DTensor over others too is refused.
    going
        Whether it goes to the ranks.
    """

    def __init__(self, ranks: Collection[int] | None, going: bool) -> None:
        self._ranks = ranks
        self._going = going
        self._storages: dict[int, Any] = {}  # by the address of torch's own object

    def reduce(self, obj: Any) -> Any:
        import torch
        from torch import _utils

        if isinstance(obj, torch.storage.TypedStorage):
            untyped = obj._untyped_storage
            # Tensors that share memory make wrappers of their own of the one storage.
            untyped = self._storages.setdefault(untyped._cdata, untyped)
            return _rebuild_typed_storage, (untyped, obj.dtype)
        if isinstance(obj, torch.UntypedStorage) and obj.device.type != "meta":
            on_cpu = self._storages.setdefault(-obj._cdata, obj.cpu())  # itself if it is there
            if not on_cpu.nbytes():
                return _rebuild_storage, (b"", obj.device.type)
            memory = (ctypes.c_char * on_cpu.nbytes()).from_address(on_cpu.data_ptr())
            return _rebuild_storage, (pickle.PickleBuffer(memory), obj.device.type)
        tensor_module = sys.modules.get("torch.distributed.tensor")
        if tensor_module is not None and isinstance(obj, tensor_module.DTensor):
            return self._gathered(obj).__reduce_ex__(5)
        if isinstance(obj, torch.Tensor):
            rebuild, *rest = obj.__reduce_ex__(5)
            # Of the dtypes that have no typed storage.
            if rebuild is _utils._rebuild_device_tensor_from_cpu_tensor:  # torch_xla's
                on_cpu, dtype, _, requires_grad = rest[0]
                return rebuild, (on_cpu, dtype, "cpu", requires_grad)
            # Only to the ranks: what a rank's libraries hook in is of no use in the notebook.
            hooks = self._going and isinstance(obj, torch.nn.Parameter) and obj._backward_hooks
            if hooks and len(rest) == 1:
                return rebuild, *rest, list(hooks.values()), None, None, _hook
            is_v3 = rebuild is _utils._rebuild_tensor_v3
            return (_rebuild_tensor_v3 if is_v3 else rebuild, *rest)
        return NotImplemented

    def _gathered(self, dtensor: Any) -> Any:
        of_mesh = dtensor.device_mesh.mesh.flatten().tolist()
        if self._ranks is not None and not set(of_mesh) <= set(self._ranks):
            raise pickle.PicklingError(
                f"a DTensor over the ranks {of_mesh} is gathered by all of them, "
                f"but only {sorted(self._ranks)} take part"
            )
        return dtensor.full_tensor()


def _rebuild_storage(memory: Any, device_type: str) -> Any:
    import torch

    if isinstance(memory, memoryview):  # mapped: the storage keeps the mapping
        storage = torch.frombuffer(memory, dtype=torch.uint8).untyped_storage()
    else:
        storage = torch.UntypedStorage(len(memory))
        if memory:
            ctypes.memmove(storage.data_ptr(), bytes(memory), len(memory))
    device = "cpu" if device_type == "cpu" else _here(device_type)
    return storage if device == "cpu" else storage.to(device=device)


def _rebuild_typed_storage(untyped: Any, dtype: Any) -> Any:
    import torch

    return torch.storage.TypedStorage(wrap_storage=untyped, dtype=dtype, _internal=True)


def _hook(parameter: Any, hooks: Sequence[Callable[..., Any]]) -> None:
    """Register what works on a parameter's gradient, which torch leaves out of its pickles."""
    for hook in hooks:
        parameter.register_hook(hook)


def _rebuild_tensor_v3(untyped: Any, *rest: Any) -> Any:
    import torch
    from torch import _utils

    # torch's own pickles of an untyped storage come back as a typed one, and it relies on that.
    typed = _rebuild_typed_storage(untyped, torch.uint8)
    return _utils._rebuild_tensor_v3(typed, *rest)


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
    is_own = _own_device is not None and _own_device.type == device_type
    return _own_device if is_own else "cpu"


def compiled_function(function: Any, reduced: Any) -> Any:
    """Send what `torch.compile` made of a function as that function, to be compiled there."""
    eval_frame = sys.modules["torch._dynamo.eval_frame"]
    for cell in function.__closure__ or ():
        if isinstance(cell.cell_contents, eval_frame._TorchDynamoContext):
            return _compile, (cell.cell_contents, function._torchdynamo_orig_callable)
    return reduced


def _compile(context: Any, function: Any) -> Any:
    return context(function)
