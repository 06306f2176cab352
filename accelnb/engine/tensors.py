"""Values across processes: cloudpickle, with large buffers beside the pickle.

What the notebook defines travels by value. A function of the notebook keeps no copy of the
notebook's variables: its globals are a reference, and become the rank's own namespace there,
so that it sees what the rank's cells assign, as it would in the notebook.
"""

from __future__ import annotations

import io
import pickle
import sys
import types
from collections.abc import Sequence
from typing import Any

import cloudpickle

_NAMESPACE = "accelnb.namespace"


class _Pickler(cloudpickle.Pickler):
    def __init__(self, file: io.BytesIO, namespace: dict[str, Any] | None, buffers: list) -> None:
        super().__init__(file, protocol=5, buffer_callback=buffers.append)
        self._namespace = namespace
        self._reference: dict[str, Any] = {"__name__": _NAMESPACE}
        self.globals_used: set[str] = set()
        if namespace is not None:
            # cloudpickle gives all functions with these globals this one dict instead.
            self.globals_ref[id(namespace)] = self._reference

    def persistent_id(self, obj: Any) -> str | None:
        return _NAMESPACE if obj is self._reference else None

    def reducer_override(self, obj: Any) -> Any:
        reduced = super().reducer_override(obj)
        if isinstance(obj, types.FunctionType) and obj.__globals__ is self._namespace:
            return self._without_globals(reduced)
        if reduced is NotImplemented and _is_on_accelerator(obj):
            return obj.detach().cpu().requires_grad_(obj.requires_grad).__reduce_ex__(5)
        return reduced

    def _without_globals(self, reduced: Any) -> Any:
        if not isinstance(reduced, tuple):
            return reduced  # importable by name after all
        make, args, (state, slots), *rest = reduced
        self.globals_used.update(slots["__globals__"])
        return (make, args, (state, slots | {"__globals__": {}}), *rest)


class _Unpickler(pickle.Unpickler):
    def __init__(
        self, file: io.BytesIO, namespace: dict[str, Any] | None, buffers: Sequence[Any]
    ) -> None:
        super().__init__(file, buffers=buffers)
        self._namespace = namespace

    def persistent_load(self, pid: Any) -> Any:
        if pid == _NAMESPACE and self._namespace is not None:
            return self._namespace
        raise pickle.UnpicklingError(f"unknown reference {pid!r}")


def dumps(
    value: Any, namespace: dict[str, Any] | None = None
) -> tuple[list[bytes | memoryview], set[str]]:
    """Serialize `value`; tensors on an accelerator become CPU tensors.

    Parameters
    ----------
    value
        Anything that cloudpickle takes.
    namespace
        The notebook's variables. Functions defined there refer to them by name.

    Returns
    -------
    buffers
        The pickle, then the buffers that were left out of it.
    globals_used
        The names of `namespace` that the functions inside `value` use.
    """
    file = io.BytesIO()
    buffers: list[pickle.PickleBuffer] = []
    pickler = _Pickler(file, namespace, buffers)
    pickler.dump(value)
    return [file.getbuffer(), *(buffer.raw() for buffer in buffers)], pickler.globals_used


def loads(buffers: Sequence[Any], namespace: dict[str, Any] | None = None) -> Any:
    """Return the value that `dumps` serialized; functions of the notebook use `namespace`."""
    return _Unpickler(io.BytesIO(buffers[0]), namespace, buffers[1:]).load()


def _is_on_accelerator(obj: Any) -> bool:
    torch = sys.modules.get("torch")
    return (
        torch is not None
        and type(obj) is torch.Tensor
        and obj.device.type not in ("cpu", "meta")
    )
