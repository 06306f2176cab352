"""Kernelspecs of accelnb: written, found and removed."""

from __future__ import annotations

import importlib.util
import json
import shlex
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelnb.devices.hardware import probe
from accelnb.errors import AccelnbError
from accelnb.jupyter.assets import asset
from accelnb.options.config import LaunchConfig, changed, resolve

_MODULE = "accelnb.notebook.kernel"
_MODULE_BEFORE = "accelnb.kernel"  # in kernels that were installed when it was there
_TEMPLATE = "kernels/accelnb"


@dataclass(frozen=True)
class Spec:
    """An installed kernel of accelnb: what Jupyter shows, its options, where it lies."""

    display_name: str
    options: str
    folder: str


def write(
    name: str,
    config: LaunchConfig,
    *,
    auto: bool = False,
    display_name: str | None = None,
    where: Path | str | None = None,
) -> Path:
    """Install a kernel and return its folder.

    Parameters
    ----------
    name
        What the kernel is called in commands and files.
    config
        The defaults of its notebooks.
    auto
        Whether every cell runs on all ranks.
    display_name
        What Jupyter shows; by default it names the options.
    where
        ``user``, ``sys-prefix`` (also if None), or a prefix of your own.

    Raises
    ------
    AccelnbError
        This machine cannot do what `config` says, ipykernel is missing, the name is not
        possible, or the folder cannot be written. Nothing was changed.
    """
    from jupyter_client.kernelspec import KernelSpecManager

    if importlib.util.find_spec("ipykernel") is None:
        raise AccelnbError("ipykernel is missing, and the kernel needs it: pip install ipykernel")
    if config.cluster == "local":
        resolve(config, probe())
    spec = _content(config, auto, display_name)
    prefix = sys.prefix if where in (None, "sys-prefix") else None if where == "user" else where
    try:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made, "kernel")
            shutil.copytree(asset(_TEMPLATE), folder)
            Path(folder, "kernel.json").write_text(json.dumps(spec, indent=2) + "\n")
            return Path(
                KernelSpecManager().install_kernel_spec(
                    str(folder), name, user=where == "user", prefix=prefix and str(prefix)
                )
            )
    except ValueError as error:  # the name has other characters than a file's name may have
        raise AccelnbError(f"name={name}: {error}") from None
    except OSError as error:
        place = error.filename2 or error.filename
        raise AccelnbError(
            f"{place} cannot be written: {error.strerror}; choose another place with --user, "
            "--sys-prefix or --prefix"
        ) from None


def installed() -> dict[str, Spec]:
    """Return the kernels of accelnb that Jupyter finds, by name."""
    from jupyter_client.kernelspec import KernelSpecManager

    found = KernelSpecManager().get_all_specs().items()
    return {
        name: Spec(
            about["spec"]["display_name"],
            shlex.join(_own_arguments(about["spec"]["argv"])),
            about["resource_dir"],
        )
        for name, about in sorted(found)
        if {_MODULE, _MODULE_BEFORE} & set(about["spec"]["argv"])
    }


def remove(name: str) -> Path:
    """Remove a kernel of accelnb and return the folder that it was in.

    Raises
    ------
    AccelnbError
        There is no such kernel, or it is not one of accelnb.
    """
    specs = installed()
    if name not in specs:
        there = ", ".join(specs) or "none"
        raise AccelnbError(f"{name}: no such kernel of accelnb; there is {there}")
    folder = Path(specs[name].folder)
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise AccelnbError(f"{folder} cannot be removed: {error.strerror}") from None
    return folder


def _content(config: LaunchConfig, auto: bool, display_name: str | None) -> dict[str, Any]:
    """Fill in the template of ``kernel.json``."""
    spec = json.loads((asset(_TEMPLATE) / "kernel.json").read_text())
    given = [part for o, value in changed(config) for part in (o.flags[-1], o.write(value))]
    spec["argv"] = [sys.executable if part == "{python}" else part for part in spec["argv"]]
    spec["argv"] += [*given, *(["--auto"] if auto else [])]
    spec["display_name"] = display_name or _display_name(config, auto)
    return spec


def _display_name(config: LaunchConfig, auto: bool) -> str:
    """Return e.g. ``accelnb (4 ranks, bf16)``, short enough for a launcher's card."""
    said = [f"{config.procs} rank{'s' * (config.procs > 1)}"] if config.procs else []
    said += [config.device] if config.device != "auto" else []
    said += [config.precision] if config.precision != "no" else []
    said += ["every cell"] if auto else []
    return f"accelnb ({', '.join(said)})" if said else "accelnb"


def _own_arguments(argv: list[str]) -> list[str]:
    return argv[argv.index("{connection_file}") + 1 :] if "{connection_file}" in argv else []
