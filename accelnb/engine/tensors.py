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
        if isinstance(obj, (io.FileIO, io.BufferedIOBase, io.TextIOWrapper)) and self._is_open(obj):
            raise pickle.PicklingError(f"cannot pickle the open file {getattr(obj, 'name', '')!r}")
        reduced = super().reducer_override(obj)
        if isinstance(obj, types.FunctionType) and obj.__globals__ is self._namespace:
            return self._without_globals(reduced)
        if reduced is NotImplemented and _is_on_accelerator(obj):
            tensor: Any = obj
            return tensor.detach().cpu().requires_grad_(tensor.requires_grad).__reduce_ex__(5)
        return reduced

    def _is_open(self, obj: Any) -> bool:
        # cloudpickle would send a file that is open for reading as the text it holds.
        standard = (sys.stdin, sys.stdout, sys.stderr)
        return obj not in standard and not obj.closed and getattr(obj, "name", None) is not None

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


def dumps(value: Any) -> list[bytes | memoryview]:
    """Serialize `value` on its own; tensors on an accelerator become CPU tensors.

    Returns
    -------
    buffers
        The pickle, then the buffers that were left out of it.
    """
    pack = Pack(None)
    pack.add(value)
    return pack.buffers()


def loads(buffers: Sequence[Any]) -> Any:
    """Return the value that `dumps` serialized."""
    return _Unpickler(io.BytesIO(buffers[0]), None, buffers[1:]).load()


class Pack:
    """Variables of the notebook on their way to the ranks, in one pickle.

    What several of them share is shared on the ranks too: an optimizer keeps its model.

    Parameters
    ----------
    namespace
        The notebook's variables. Functions defined there refer to them by name.
    """

    def __init__(self, namespace: dict[str, Any] | None) -> None:
        self._file = io.BytesIO()
        self._beside: list[pickle.PickleBuffer] = []
        self._pickler = _Pickler(self._file, namespace, self._beside)

    @property
    def globals_used(self) -> set[str]:
        """The names that functions inside the values use."""
        return self._pickler.globals_used

    def add(self, values: Any) -> None:
        self._pickler.dump(values)

    def buffers(self) -> list[bytes | memoryview]:
        return [self._file.getvalue(), *(buffer.raw() for buffer in self._beside)]


def unpack(buffers: Sequence[Any], namespace: dict[str, Any]) -> None:
    """Bind in `namespace` the variables of a `Pack`."""
    file = io.BytesIO(buffers[0])
    unpickler = _Unpickler(file, namespace, buffers[1:])
    while file.tell() < len(buffers[0]):
        namespace.update(unpickler.load())


def _is_on_accelerator(obj: Any) -> bool:
    torch = sys.modules.get("torch")
    return (
        torch is not None and type(obj) is torch.Tensor and obj.device.type not in ("cpu", "meta")
    )
