"""Single files: written whole or not at all, and read without running what is in them."""

from __future__ import annotations

import os
import pickle
import re
import secrets
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from zipfile import is_zipfile

import torch

from accelnb.errors import AccelnbError
from accelnb.training.checkpoint.weights import (
    clean_state_dict_for_safetensors,
    merged_names,
    readable,
)
from accelnb.training.dtensors import has_dtensors
from accelnb.training.state import PartialState

T = TypeVar("T")

_FORBIDDEN = re.compile(r"GLOBAL (\S+) (was not an allowed|whose module)")


def save(
    obj: Any,
    f: Any,
    save_on_each_node: bool = False,
    safe_serialization: bool = False,
) -> None:
    """Save an object once, from the main process. A file is replaced as a whole.

    Parameters
    ----------
    f
        A path, or a file to write to.
    save_on_each_node
        Once per machine instead.
    safe_serialization
        In the safetensors format: `obj` is then a dict of tensors. Tied ones are saved once.

    Raises
    ------
    AccelnbError
        It cannot be written. A file that was there is as it was.

    Examples
    --------
    >>> import os, tempfile
    >>> from accelnb.utils import load, save
    >>> path = os.path.join(tempfile.mkdtemp(), "numbers.bin")
    >>> save({"numbers": [0, 1, 2]}, path)
    >>> load(path)
    {'numbers': [0, 1, 2]}
    """
    if not writes_here(save_on_each_node):
        return
    if isinstance(obj, Mapping) and has_dtensors(obj.values()):
        raise AccelnbError(
            "save() would write this rank's parts alone: its tensors are divided over ranks. Give "
            "it accelerator.get_state_dict(model), or call save_model() or save_state()"
        )
    obj = readable(obj)
    if isinstance(f, str | os.PathLike):
        write = write_safetensors if safe_serialization else write_pickled
        replace_file(Path(f), lambda path: write(obj, path))
    elif safe_serialization:
        from safetensors.torch import save as as_bytes

        f.write(as_bytes(clean_state_dict_for_safetensors(obj), _metadata(obj)))
    else:
        torch.save(obj, f)


def load(f: Any, map_location: Any = None, **kwargs: Any) -> Any:
    """Load what `save` saved without `safe_serialization`, running no code that is in the file.

    Parameters
    ----------
    map_location, **kwargs
        Of ``torch.load``. ``weights_only=False`` unpickles anything: for files that you trust.

    Raises
    ------
    AccelnbError
        The file is missing or damaged, or holds what is neither plain nor a tensor or an array.
    """
    kwargs.setdefault("weights_only", True)
    try:
        with torch.serialization.safe_globals(_array_types()):
            return torch.load(f, map_location=map_location, **kwargs)
    except FileNotFoundError:
        raise AccelnbError(f"{f} does not exist") from None
    except pickle.UnpicklingError as error:
        raise AccelnbError(_why_refused(f, error)) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise AccelnbError(f"{f} cannot be read, it seems damaged: {first_line(error)}") from None


def in_place(file: Path) -> dict[str, Any]:
    """Return the arguments of `load` with which tensors are read when, and as far as, it is used.

    What is kept of them has to be copied.
    """
    return {"map_location": "cpu", "mmap": is_zipfile(file)}


def load_weights(file: Path, map_location: Any = "cpu", **kwargs: Any) -> dict[str, Any]:
    """Return the state dict in a file that is not of safetensors; see `load`."""
    state = load(file, map_location=map_location, **kwargs)
    if not isinstance(state, dict):
        raise AccelnbError(f"{file} holds no weights, but a {type(state).__name__}")
    return state


def _array_types() -> list[Any]:
    """Return what numpy arrays and scalars consist of: numbers, no code."""
    try:
        import _codecs

        import numpy
        from numpy._core import multiarray
    except ImportError:  # without numpy, or before its version 2
        return []
    kinds = [kind for kind in vars(numpy.dtypes).values() if isinstance(kind, type)]
    parts = [multiarray._reconstruct, multiarray.scalar]  # pyright: ignore
    return [*parts, numpy.ndarray, numpy.dtype, _codecs.encode, *kinds]


def _why_refused(f: Any, error: Exception) -> str:
    found = _FORBIDDEN.search(str(error))
    if found is None:
        said = last_line(error)
        return f"{f} cannot be read, it seems damaged or holds more than plain data: {said}"
    name = found.group(1)
    return (
        f"{f} holds a {name}, which is not plain data: if you trust it, allow it by "
        f"torch.serialization.add_safe_globals([{name.rpartition('.')[2]}]) or load with "
        "weights_only=False (load_kwargs of load_state)"
    )


def last_line(error: BaseException) -> str:
    """Return the line of torch's long text that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Check the documentation", "(1)"))]
    return told[-1] if told else type(error).__name__


def first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().partition("\n")[0]


# ---- writing ----


def writes_here(on_each_machine: bool) -> bool:
    """Return whether this process writes what is written once, or once on each machine."""
    process = PartialState()
    return process.is_local_main_process if on_each_machine else process.is_main_process


def write(obj: Any, path: Path) -> None:
    """Write a file of a checkpoint in the format that its name says, through to the disk."""
    write = write_safetensors if path.suffix == ".safetensors" else write_pickled
    reporting(lambda: write(obj, path), path)


def write_safetensors(state: Mapping[str, Any], path: Path) -> None:
    from safetensors.torch import save_file

    save_file(clean_state_dict_for_safetensors(state), path, _metadata(state))
    flush(path)


def write_pickled(obj: Any, path: Path) -> None:
    torch.save(obj, path)
    flush(path)


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Have `write` write a new file, and put it in the place of `path` when it is complete."""
    new = path.with_name(f".{path.name}.saving-{secrets.token_hex(4)}")
    try:
        reporting(lambda: write(new), new)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have the disk hold what was written to a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def warn_if_refused(path: Path, what: str) -> None:
    """Warn of a file just written that `load` will refuse."""
    with torch.serialization.safe_globals(_array_types()):
        refused = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    if refused:
        warnings.warn(
            f"the state of {what} holds a {refused[0]}: load_state refuses it until you call "
            f"torch.serialization.add_safe_globals([{refused[0].rpartition('.')[2]}])",
            stacklevel=2,
        )


def reporting(action: Callable[[], T], path: Path) -> T:
    """Return what an action does that writes a file; say in one line what went wrong."""
    from safetensors import SafetensorError

    try:
        return action()
    except (OSError, SafetensorError, RuntimeError) as error:  # torch: RuntimeError on a full disk
        raise AccelnbError(
            f"cannot write {path.name.lstrip('.')} in {path.parent}: {first_line(error)} "
            f"({size_free(path.parent)} free)"
        ) from error
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise AccelnbError(f"{path.name}: cannot be saved: {first_line(error)}") from error


def size_free(folder: Path) -> str:
    """Return how much the disk of a folder still takes, as a text."""
    try:
        return f"{shutil.disk_usage(folder).free / 1e6:.0f} MB"
    except OSError:
        return "unknown space"


def _metadata(state: Mapping[str, Any]) -> dict[str, str]:
    return {"format": "pt", **merged_names(state)}
