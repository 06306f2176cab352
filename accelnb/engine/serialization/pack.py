"""Values across processes: cloudpickle, with large buffers beside the pickle.

Between processes of one machine these lie in shared memory, else in the message itself.

What the notebook defines travels by value. A function of the notebook keeps no copy of the
notebook's variables: its globals are a reference, and become the rank's own namespace there,
so that it sees what the rank's cells assign, as it would in the notebook.
"""

from __future__ import annotations

import ctypes
import functools
import io
import pickle
import sys
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import cloudpickle

from accelnb.engine.serialization.classes import reduce_class
from accelnb.engine.serialization.module_objects import Origin
from accelnb.engine.serialization.process_objects import own_stream
from accelnb.engine.serialization.reducers import TABLE, reduce_function
from accelnb.engine.serialization.shared_memory import SharedBuffers, map_shared
from accelnb.engine.serialization.torch_objects import TensorReducer

_NAMESPACE = "accelnb.namespace"
_LARGE = 1 << 16  # bytes from which a buffer travels beside the pickle


class Packed:
    """A pickled value: a small message, and large buffers in shared memory beside it or behind it.

    Attributes
    ----------
    content, buffers
        What the message to the other process has to hold, for its `Received`.
    """

    def __init__(
        self,
        pickled: bytes,
        shared: SharedBuffers | None = None,
        numbers: Sequence[int] = (),
        behind: Sequence[bytes] = (),
    ) -> None:
        self.buffers: list[bytes | memoryview] = [pickled, *behind]
        self._shared = shared
        self.content = {"shared": shared.describe(numbers)} if shared and numbers else {}

    def close(self) -> None:
        """Give up the shared memory, also of the packs made together with this one."""
        if self._shared is not None:
            self._shared.close()


class Received:
    """A pickled value that came in a message; its shared memory is mapped at once."""

    def __init__(self, content: dict[str, Any], buffers: Sequence[Any]) -> None:
        self._pickled, *self._behind = buffers
        self._mapped = map_shared(content["shared"]) if "shared" in content else []

    @functools.cached_property
    def _large(self) -> list[memoryview]:
        # A message's own memory cannot be written to, as the values' has to be.
        return self._mapped or [memoryview(bytearray(buffer)) for buffer in self._behind]

    def load(self) -> Any:
        """Return the value that `dumps` packed."""
        return _Unpickler(io.BytesIO(self._pickled), None, self._large).load()

    def unpack(self, namespace: dict[str, Any]) -> None:
        """Bind in `namespace` the variables of a `Pack`; its functions use that namespace."""
        file = io.BytesIO(self._pickled)
        unpickler = _Unpickler(file, namespace, self._large)
        while file.tell() < len(self._pickled):
            variables, deleted, _ = unpickler.load()
            namespace.update(variables)
            for name in deleted:
                namespace.pop(name, None)


class _Unpickler(pickle.Unpickler):
    def __init__(
        self, file: io.BytesIO, namespace: dict[str, Any] | None, buffers: Sequence[Any]
    ) -> None:
        super().__init__(file, buffers=buffers)
        self._namespace = namespace

    def persistent_load(self, pid: Any) -> Any:
        if pid == _NAMESPACE and self._namespace is not None:
            return self._namespace
        if isinstance(pid, tuple):
            return Origin(*pid).find()
        raise pickle.UnpicklingError(f"unknown reference {pid!r}")


class Pack(cloudpickle.Pickler):
    """Variables of the notebook on their way to the ranks, in one pickle.

    What several of them share is shared on the ranks too: an optimizer keeps its model.

    Parameters
    ----------
    namespace
        The notebook's variables. Functions defined there refer to them by name.
    ranks
        See `dumps`.
    imported
        Objects, by their identity, that are imported there instead.
    in_band
        Whether large buffers stay in the pickle.

    Attributes
    ----------
    large : list of memoryview
        The buffers that travel beside the pickle.
    globals_used : set of str
        The names that functions inside the values use.
    """

    dispatch_table = TABLE

    def __init__(
        self,
        namespace: dict[str, Any] | None,
        ranks: Collection[int] | None = None,
        imported: Mapping[int, Origin] | None = None,
        in_band: bool = False,
    ) -> None:
        self._file = io.BytesIO()
        keep = None if in_band else self._keep_small
        super().__init__(self._file, protocol=5, buffer_callback=keep)
        self.large: list[memoryview] = []
        self.globals_used: set[str] = set()
        self._torch = TensorReducer(ranks, going=namespace is not None)
        self._namespace = namespace
        self._reference: dict[str, Any] = {"__name__": _NAMESPACE}
        self._imported = imported or {}
        if namespace is not None:
            # cloudpickle gives all functions with these globals this one dict instead.
            self.globals_ref[id(namespace)] = self._reference

    def add_value(self, value: Any) -> None:
        """Add a value of its own, for `Received.load`."""
        self.dump(value)

    def add(
        self,
        variables: Mapping[str, Any],
        deleted: Iterable[str] = (),
        brought_up_to_date: Iterable[Any] = (),
    ) -> None:
        """Add variables to bind and names to delete, for `Received.unpack`.

        Parameters
        ----------
        brought_up_to_date
            Classes, and `Renewal` of other objects, of which the ranks may have an older state.
        """
        self.dump((dict(variables), list(deleted), list(brought_up_to_date)))

    @property
    def pickled(self) -> bytes:
        return self._file.getvalue()

    # ---- for pickle ----

    def _keep_small(self, buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < _LARGE:
            return True
        self.large.append(view)
        return False

    def persistent_id(self, obj: Any) -> str | tuple[str, ...] | None:
        if obj is self._reference or (obj is self._namespace and obj is not None):
            return _NAMESPACE
        origin = self._imported.get(id(obj))
        return tuple(origin) if origin is not None else None

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (io.FileIO, io.BufferedIOBase, io.TextIOWrapper)) and self._is_open(obj):
            raise pickle.PicklingError(f"cannot pickle the open file {getattr(obj, 'name', '')!r}")
        if isinstance(obj, types.CodeType):
            reduced = cloudpickle.Pickler.dispatch_table[types.CodeType](obj)
            return _rebuild_code, (obj.co_filename, *reduced[1])
        reduced = super().reducer_override(obj)
        if isinstance(obj, types.FunctionType):
            reduced = reduce_function(obj, reduced)
            is_notebooks = obj.__globals__ is self._namespace
            return self._without_globals(reduced) if is_notebooks else reduced
        if issubclass(type(obj), type):  # `isinstance` would ask a proxy
            return reduce_class(obj, reduced)  # type: ignore[arg-type]
        if reduced is NotImplemented and "torch" in sys.modules:
            return self._torch.reduce(obj)
        return reduced

    def _is_open(self, obj: Any) -> bool:
        # cloudpickle would send a file that is open for reading as the text it holds.
        is_own = own_stream(obj) is not None
        return not is_own and not obj.closed and getattr(obj, "name", None) is not None

    def _without_globals(self, reduced: Any) -> Any:
        if not isinstance(reduced, tuple):
            return reduced  # importable by name after all
        make, args, (state, slots), *rest = reduced
        self.globals_used.update(slots["__globals__"])
        return (make, args, (state, slots | {"__globals__": {}}), *rest)


def dumps(
    value: Any,
    ranks: Collection[int] | None = None,
    finish: Finish | None = None,
    imported: Mapping[int, Origin] | None = None,
) -> Packed:
    """Pack `value` on its own.

    Tensors keep their dtype, strides, shared memory and ``requires_grad``. Those on an
    accelerator are rebuilt on the device of a rank of that type, elsewhere on the CPU; a DTensor
    becomes the full tensor, for which every rank of its mesh has to pack it.

    Parameters
    ----------
    ranks
        Those that pack their value now; a DTensor over others too is refused.
    finish
        How it is to travel: `finished`, or `finished_in_message` to another machine.
    imported
        See `Pack`.
    """
    pack = Pack(None, ranks, imported)
    pack.add_value(value)
    return (finish or finished)([pack])[0]


def call(
    function: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    brought_up_to_date: Iterable[Any] = (),
) -> tuple[Any, ...]:
    """Return what a rank that is asked to call a function expects, for `dumps`."""
    return function, tuple(args), dict(kwargs or {}), list(brought_up_to_date)


def pickled(value: Any) -> bytes:
    """Return `value`, a small one, as bytes that plain `pickle.loads` reads."""
    pack = Pack(None, in_band=True)
    pack.add_value(value)
    return pack.pickled


Finish = Callable[[Sequence[Pack]], list[Packed]]


def finished(packs: Sequence[Pack]) -> list[Packed]:
    """Make packs ready to travel here; a large buffer that several hold is copied once."""
    buffers = _distinct(packs)
    shared = SharedBuffers(list(buffers.values())) if buffers else None
    number = {memory: i for i, memory in enumerate(buffers)}
    return [Packed(p.pickled, shared, [number[_memory_of(v)] for v in p.large]) for p in packs]


def finished_in_message(packs: Sequence[Pack]) -> list[Packed]:
    """Make packs ready to travel to another machine, with their large buffers in the message."""
    # Copies: the values may be changed while the message is on its way.
    copies = {memory: bytes(view) for memory, view in _distinct(packs).items()}
    return [Packed(p.pickled, behind=[copies[_memory_of(v)] for v in p.large]) for p in packs]


def _distinct(packs: Sequence[Pack]) -> dict[tuple[int, int], memoryview]:
    return {_memory_of(view): view for pack in packs for view in pack.large}


def _memory_of(view: memoryview) -> tuple[int, int]:
    owner: Any = view.obj  # of a tensor's storage, each pickle makes an array of its own
    address = ctypes.addressof(owner) if isinstance(owner, ctypes.Array) else id(owner)
    return address, view.nbytes


def _rebuild_code(filename: str, *arguments: Any) -> types.CodeType:
    """Make a function's code, in the cell that it comes from: tracebacks show its lines.

    cloudpickle, since 3.1.3, forgets the file name.
    """
    return types.CodeType(*arguments).replace(co_filename=filename)
