"""Whether a value is still what it was when it was sent, told fast enough to ask in every cell.

What is read of a value is what the ranks would be sent of it: a pickle, of which only a digest is
kept. Tensors and arrays take part with their memory, functions with their code, and what they and
their class hold is followed. Much of it is read in part only.
"""

from __future__ import annotations

import ctypes
import enum
import functools
import pickle
import sys
import time
import types
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import cloudpickle
import xxhash
from cloudpickle.cloudpickle import _extract_code_globals, _should_pickle_by_reference

from accelnb.engine.serialization.reducers import TABLE
from accelnb.jupyter.cell_names import names_in_texts

_PICKLED = 1 << 18  # bytes of a pickle, and
_OBJECTS = 2000  # objects in it that are more than a number, a text or a plain container
_MEMORY = 1 << 20  # bytes of a value's arrays and tensors that are read whole, of others
_SPOTS, _SPOT, _END = 8, 64, 512  # these: so many bytes at so many places, and at both ends
_ITEMS = 48  # of a container in a value that is too large: as many at both ends, and spots

_CONTAINERS = (dict, list, set, frozenset, tuple, OrderedDict, deque)
_NO_CHANGE = (int, float, complex, bool, str, bytes, type(None), range, types.ModuleType)
_NO_CHANGE += (types.BuiltinFunctionType, type(...))
_SCALARS = (int, float, complex, bool, type(None))
# What Python keeps in every class, or finds out when a class is used.
_OF_EVERY_CLASS = frozenset(
    {"__dict__", "__weakref__", "__module__", "__dataclass_fields__", "__dataclass_params__"}
    | {"_abc_impl", "__annotations_cache__", "__static_attributes__", "__firstlineno__"}
    | {"__slotnames__", "__non_callable_proto_members__", "_value2member_map_"}
)
_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)


class Fingerprint(NamedTuple):
    """What is known of a value at one time.

    Attributes
    ----------
    digest
        Equal if nothing was changed. None if the value cannot be read.
    is_partial
        Whether something in it that can be changed was read in part only.
    in_part
        Whether it is too large to be read whole: of containers both ends were read.
    uses
        Names of the notebook that functions in it refer to.
    classes
        Classes of the notebook that it needs; what these hold is not part of the digest.
    has_tensors
        Whether it holds tensors, which ranks train in place.
    seconds
        Of the processor that it took.
    """

    digest: bytes | None
    is_partial: bool
    uses: frozenset[str]
    classes: tuple[type, ...]
    has_tensors: bool
    in_part: bool
    seconds: float


_UNREADABLE = Fingerprint(None, True, frozenset(), (), False, True, 0.0)


def can_change(value: Any) -> bool:
    """Return whether `value` can be changed in place by what a notebook does."""
    if type(value) in _NO_CHANGE:
        return False
    if issubclass(type(value), type | types.FunctionType):  # `isinstance` would ask a proxy
        return is_notebooks(value)
    return True


def is_notebooks(made: Any) -> bool:
    """Return whether a function or class travels by value: no module has it to be imported."""
    return getattr(made, "__module__", None) == "__main__" or not _should_pickle_by_reference(made)


class Reading:
    """Takes the fingerprints of values that nobody changes meanwhile.

    Parameters
    ----------
    namespace
        The notebook's variables, to which its functions refer.
    """

    def __init__(self, namespace: Mapping[str, Any]) -> None:
        self.namespace = namespace
        # Asked for every object of theirs.
        self.is_notebooks = functools.cache(is_notebooks)
        self.is_plain = functools.cache(_is_plain)
        self._of_classes: dict[type, Fingerprint] = {}

    def of(self, value: Any, in_part: bool = False) -> Fingerprint:
        """Return the fingerprint of `value`; what is too large is read in part.

        Parameters
        ----------
        in_part
            Do not try to read it whole: it was too large the last time.
        """
        if type(value) in _SCALARS:
            return Fingerprint(pickle.dumps(value), False, frozenset(), (), False, False, 0.0)
        began = time.thread_time()
        for kind in (_InPart,) if in_part else (_Whole, _InPart):
            reader = kind(self)
            try:
                digest = reader.read(value)
            except _TooLargeError:
                continue
            except Exception:  # it is refused, with its reason, where it is sent
                break
            return reader.fingerprint(digest, time.thread_time() - began)
        return _UNREADABLE

    def of_class(self, cls: type) -> Fingerprint:
        """Return the fingerprint of what a class of the notebook holds itself."""
        if cls not in self._of_classes:
            held = [
                (name, value)
                for name, value in list(vars(cls).items())
                if name not in _OF_EVERY_CLASS and type(value) not in _SLOTS
            ]
            kind = (type(cls), cls.__qualname__, cls.__bases__)
            if issubclass(cls, enum.Enum):
                members = cls.__members__.items()
                held += [(name, {**vars(one), "_inverted_": None}) for name, one in members]
            now = self.of((kind, held))
            if now.digest is None:  # of what cannot be read, another object is noticed
                held = [(n, v if self.of(v).digest is not None else id(v)) for n, v in held]
                now = self.of((kind, held))
            self._of_classes[cls] = now
        return self._of_classes[cls]

    def with_theirs(self, classes: Iterable[type]) -> dict[type, Fingerprint]:
        """Return the fingerprints of `classes` and of all classes that these need."""
        found: dict[type, Fingerprint] = {}
        to_see = list(classes)
        while to_see:
            cls = to_see.pop()
            if cls not in found:
                found[cls] = self.of_class(cls)
                to_see += found[cls].classes
        return found


class _TooLargeError(Exception):
    pass


class _Stream:
    """Takes a pickle's bytes and keeps their digest."""

    def __init__(self) -> None:
        self.digest = xxhash.xxh3_128()
        self._left = _PICKLED

    def write(self, data: Any) -> None:
        self._left -= len(data)
        if self._left < 0:
            raise _TooLargeError
        self.digest.update(data)


class _Whole(cloudpickle.Pickler):
    """Reads one value, as the pickler that sends it does."""

    dispatch_table = TABLE

    def __init__(self, reading: Reading) -> None:
        self._stream = _Stream()
        super().__init__(self._stream, protocol=5, buffer_callback=self._take_buffer)
        self._reading = reading
        self._memory_left = _MEMORY
        self._storages: dict[int, int] = {}  # that were read, by their address
        self._objects = 0
        self._is_partial = self._has_tensors = False
        self._uses: set[str] = set()
        self._classes: dict[type, None] = {}

    def read(self, value: Any) -> bytes:
        self.dump(value)
        return self._stream.digest.digest()

    def fingerprint(self, digest: bytes, seconds: float) -> Fingerprint:
        in_part = isinstance(self, _InPart)
        return Fingerprint(
            digest,
            self._is_partial,
            frozenset(self._uses),
            tuple(self._classes),
            self._has_tensors,
            in_part,
            seconds,
        )

    # What follows returns a call that is never made: its arguments are what is read of the
    # object, and its state what may lead back to the object itself.

    def reducer_override(self, obj: Any) -> Any:
        if obj is _read:
            return NotImplemented
        self._objects += 1
        if self._objects > _OBJECTS:
            raise _TooLargeError
        if issubclass(type(obj), type):  # `isinstance` would ask a proxy
            return _read, (self._class(obj),)
        if type(obj) is types.FunctionType:
            return self._function(obj)
        if type(obj) is types.ModuleType:
            return _read, (obj.__name__,)
        if (numpy := sys.modules.get("numpy")) is not None and type(obj) in (
            numpy.ndarray,
            numpy.memmap,
        ):
            return self._array(obj)
        if (torch := sys.modules.get("torch")) is not None:
            if isinstance(obj, torch.Tensor):
                return _read, self._tensor(obj), obj._backward_hooks or None
            if isinstance(obj, torch.nn.Module) and self._reading.is_plain(type(obj)):
                return _read, (), list(self._module(obj))
        return super().reducer_override(obj)

    def _class(self, cls: type) -> Any:
        if not self._reading.is_notebooks(cls):
            return cls.__module__, cls.__qualname__
        self._classes[cls] = None
        return id(cls)

    def _function(self, function: types.FunctionType) -> Any:
        if not self._reading.is_notebooks(function):
            return _read, (function.__module__, function.__qualname__)
        code = function.__code__
        names: Collection[str] = _extract_code_globals(code)
        others = None
        if function.__globals__ is self._reading.namespace:
            self._uses.update(names)
            self._uses.update(names_in_texts(code))
        else:
            others = {n: function.__globals__[n] for n in names if n in function.__globals__}
        held = [*_contents(function.__closure__ or ()), function.__dict__, others]
        return (
            _read,
            (hash(code), function.__name__, function.__doc__, function.__defaults__),
            [function.__kwdefaults__, *held],
        )

    def _module(self, root: Any) -> Iterator[Any]:
        """Return what a torch module and those in it hold."""
        seen = set()
        to_see = [root]
        while to_see:
            module = to_see.pop()
            if id(module) in seen:
                continue
            seen.add(id(module))
            yield self._class(type(module))
            for key, value in module.__dict__.items():
                if key in ("_parameters", "_buffers"):
                    for name, tensor in value.items():
                        yield name, id(tensor)
                        if tensor is not None:
                            yield self._tensor(tensor)
                            yield tensor._backward_hooks or None
                elif key == "_modules":
                    yield list(value)
                    for child in value.values():
                        if child is None or not self._reading.is_plain(type(child)):
                            yield child
                        else:
                            to_see.append(child)
                elif type(value) not in _CONTAINERS or value:  # most are empty tables of hooks
                    yield key
                    yield value

    def _tensor(self, tensor: Any) -> tuple[Any, ...]:
        self._has_tensors = True
        try:
            version = tensor._version
        except RuntimeError:  # of a tensor made in inference mode
            version = None
        kind = (tuple(tensor.shape), str(tensor.dtype), tensor.requires_grad)
        memory = self._memory_of_tensor(tensor) if tensor.is_cpu else None
        return *kind, version, memory, tensor.__dict__ or None

    def _memory_of_tensor(self, tensor: Any) -> Any:
        try:
            storage = tensor.untyped_storage()
            address, place = storage.data_ptr(), (tensor.storage_offset(), tensor.stride())
        except (RuntimeError, NotImplementedError):  # it has no storage
            return None
        if address in self._storages:  # it is another tensor's, too
            return self._storages[address], place
        self._storages[address] = len(self._storages)
        return self._memory(address, storage.nbytes()), place

    def _array(self, array: Any) -> Any:
        kind = (hash(array.dtype), array.shape, array.flags.writeable)
        if array.dtype.hasobject:
            return _read, kind, self._objects_of(array)
        if array.flags.c_contiguous or array.flags.f_contiguous:
            self._note_partial(array.nbytes, array.flags.writeable)
            address = array.__array_interface__["data"][0]
            return _read, (*kind, array.strides, self._memory(address, array.nbytes))
        if array.nbytes <= self._memory_left:
            self._memory_left -= array.nbytes
            return _read, (*kind, array.tobytes())
        self._is_partial = True
        return _read, (*kind, array.flat[list(_picked(array.size))].tobytes())

    def _objects_of(self, array: Any) -> list[Any]:
        if array.size > _OBJECTS:
            raise _TooLargeError
        return array.tolist()

    def _take_buffer(self, buffer: Any) -> bool:
        view = buffer.raw()
        self._note_partial(view.nbytes, not view.readonly)
        self._stream.digest.update(self._memory_of(view, view.nbytes))
        return False

    def _note_partial(self, length: int, is_writable: bool) -> None:
        self._is_partial |= is_writable and length > self._memory_left

    def _memory(self, address: int, length: int) -> bytes:
        if not length:
            return b""
        return self._memory_of((ctypes.c_char * length).from_address(address), length)

    def _memory_of(self, memory: Any, length: int) -> bytes:
        if length <= self._memory_left:
            self._memory_left -= length
            return xxhash.xxh3_128_digest(memory)
        digest = xxhash.xxh3_128(memory[:_END])
        digest.update(memory[length - _END :])
        for at in range(_END, length - _SPOT, length // _SPOTS):
            digest.update(memory[at : at + _SPOT])
        return digest.digest()


class _InPart(_Whole):
    """Reads one value that is too large: of its containers both ends."""

    def persistent_id(self, obj: Any) -> Any:
        kind = type(obj)
        if kind in (str, bytes):
            return (kind.__name__, len(obj), hash(obj)) if len(obj) > _ITEMS else None
        if kind not in _CONTAINERS or len(obj) <= 2 * _ITEMS + _SPOTS + 1:
            return None
        self._is_partial |= kind not in (tuple, frozenset)
        return kind.__name__, len(obj), list(_ends(obj))

    def _objects_of(self, array: Any) -> list[Any]:
        self._is_partial |= array.flags.writeable
        return array.flat[list(_picked(array.size))].tolist()


def _read(*_: Any) -> None:
    """Stand in a pickle for what made an object."""


def _ends(container: Any) -> Iterator[Any]:
    items = container.items() if hasattr(container, "items") else container
    yield from islice(items, _ITEMS)
    if hasattr(items, "__reversed__"):
        yield from islice(reversed(items), _ITEMS)
    if isinstance(items, Sequence):
        for at in _picked(len(items)):
            yield items[at]


def _picked(size: int) -> range:
    """Return some indices, the same ones each time."""
    return range(0, size, max(1, -(-size // _SPOTS)))


def _contents(cells: Iterable[types.CellType]) -> Iterator[Any]:
    for cell in cells:
        try:
            yield cell.cell_contents
        except ValueError:  # it is empty
            yield None


def _is_plain(cls: type) -> bool:
    """Return whether torch modules of a class are pickled by their attributes."""
    import torch

    base = torch.nn.Module
    return (
        not issubclass(cls, torch.jit.ScriptModule)
        and cls.__reduce_ex__ is object.__reduce_ex__
        and cls.__reduce__ is object.__reduce__
        and getattr(cls, "__getstate__", None) is getattr(base, "__getstate__", None)
    )
