"""A safetensors file written one tensor after the other: no more than one need be in memory."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from accelnb.training.checkpoint.files import flush
from accelnb.training.pytree import TensorInformation


def in_order(tensors: Mapping[str, TensorInformation]) -> list[str]:
    """Return the names in the order in which the tensors are written: large elements first.

    Each then begins at a multiple of the size of its elements.
    """
    return sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)


class SafetensorsFile:
    """A file that is being written.

    Parameters
    ----------
    tensors
        What will be in it.
    metadata
        Texts by their names, of which some libraries want ``format``.

    Examples
    --------
    >>> import os, tempfile, torch
    >>> from pathlib import Path
    >>> from safetensors.torch import load_file
    >>> from accelnb.training.checkpoint.safetensors_file import SafetensorsFile
    >>> from accelnb.training.pytree import TensorInformation
    >>> path = Path(tempfile.mkdtemp(), "model.safetensors")
    >>> tensors = {"a": TensorInformation(torch.Size([2]), torch.float32)}
    >>> with SafetensorsFile(path, tensors, {"format": "pt"}) as file:
    ...     file.add("a", torch.ones(2))
    >>> load_file(path)
    {'a': tensor([1., 1.])}
    """

    def __init__(
        self, path: Path, tensors: Mapping[str, TensorInformation], metadata: Mapping[str, str]
    ) -> None:
        header: dict[str, Any] = {"__metadata__": dict(metadata)}
        place = 0
        for name in in_order(tensors):
            shape, dtype = tensors[name]
            end = place + shape.numel() * dtype.itemsize
            header[name] = {
                "dtype": _code(dtype),
                "shape": list(shape),
                "data_offsets": [place, end],
            }
            place = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._path = path
        self._file = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Write the next tensor, in the order of `in_order`."""
        if is_traceable_wrapper_subclass(tensor):
            raise TypeError(f"{name} is a {type(tensor).__name__}, which the format does not know")
        values = tensor.detach().cpu().contiguous().reshape(-1)
        self._file.write(values.view(torch.uint8).numpy().data)

    def __enter__(self) -> SafetensorsFile:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Have all of it on the disk."""
        self._file.close()
        flush(self._path)


@functools.cache
def _code(dtype: torch.dtype) -> str:
    """Return what the format calls a type of elements: as its own library does."""
    from safetensors.torch import save

    written = save({"tensor": torch.empty(0, dtype=dtype)})
    size = int.from_bytes(written[:8], "little")
    return json.loads(written[8 : 8 + size])["tensor"]["dtype"]
