"""Which torch is installed, read from its files: importing it takes a second."""

from __future__ import annotations

import functools
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

_FIELD = re.compile(r"^(__version__|cuda|hip|xpu)\b[^=\n]*= *'([^']+)'", re.MULTILINE)


@dataclass(frozen=True)
class TorchBuild:
    """A torch and what it was built for.

    Attributes
    ----------
    version : str
        Such as ``2.13.0+cpu``.
    cuda, hip, xpu : str or None
        Version of what it was built with, if it was.

    Examples
    --------
    >>> from accelnb.devices.hardware import TorchBuild
    >>> TorchBuild("2.13.0+cu130", cuda="13.0").describe()
    '2.13.0+cu130, built for CUDA 13.0'
    """

    version: str
    cuda: str | None = None
    hip: str | None = None
    xpu: str | None = None

    def describe(self) -> str:
        built_for = {"CUDA": self.cuda, "ROCm": self.hip, "XPU": self.xpu}
        said = [f"{name} {version}" for name, version in built_for.items() if version]
        return f"{self.version}, built for {' and '.join(said) or 'CPU only'}"


@functools.cache
def torch_build() -> TorchBuild | None:
    """Return the torch that ranks will import, None if there is none.

    Examples
    --------
    >>> from accelnb.devices.hardware import torch_build
    >>> torch_build().version.startswith("2.")
    True
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    return read_version_file(Path(spec.origin).with_name("version.py"))


def read_version_file(path: Path) -> TorchBuild | None:
    """Return what torch's ``version.py`` says, None if that says nothing."""
    if not path.exists():
        return None
    fields = dict(_FIELD.findall(path.read_text()))
    version = fields.pop("__version__", None)
    return TorchBuild(version, **fields) if version else None
