"""What is launched: a script, a module, a notebook, or any program."""

from __future__ import annotations

import contextlib
import importlib.util
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from accelnb.errors import AccelnbError

if TYPE_CHECKING:
    from accelnb.export import Exported
    from accelnb.options.config import LaunchConfig


class NothingToLaunch(AccelnbError):
    """What shall be launched is not there, or is no Python. Nothing was started."""


@dataclass(frozen=True)
class Target:
    """What every process runs.

    Attributes
    ----------
    kind : str
        ``script``, ``module``, ``notebook`` or ``program``.
    name : str
        A path, or the module's name.
    arguments : tuple of str
        What it is given on its command line.
    works_in : str
        The folder that it works in and imports from, where that is not as for a script.
    exported : Exported or None
        Of a notebook: its script, and the options of its first distributed cell.
    whose_lines : str
        Of a notebook: what the lines of a traceback are; it is said where one was shown.
    """

    kind: str
    name: str
    arguments: tuple[str, ...] = ()
    works_in: str = ""
    exported: Exported | None = None
    whose_lines: str = ""

    @property
    def folder(self) -> Path:
        """Where the accelnb.yaml of this target is."""
        return Path(self.name).parent if self.kind in ("script", "notebook") else Path()


def find_target(
    name: str,
    arguments: tuple[str, ...] = (),
    *,
    module: bool = False,
    program: bool = False,
    base: LaunchConfig | None = None,
    device: str | None = None,
) -> Target:
    """Look at what shall be launched.

    Parameters
    ----------
    module
        `name` is a module, as for ``python -m``.
    program
        `name` is a program of any language.
    base
        The options of a notebook's cells that give none; by default its accelnb.yaml's.
    device
        The device of a notebook's cells that name none; by default that of `base`.

    Raises
    ------
    ConfigError
        A notebook's cells name another device than `device`.
    NothingToLaunch
        It is not there, its text is not Python, or a notebook has no script form; names the
        line.

    Examples
    --------
    >>> from accelnb.cli.launching import find_target
    >>> find_target("json.tool", module=True).kind
    'module'
    """
    if module:
        _check_module(name)
        return Target("module", name, arguments)
    if program:
        if shutil.which(name) is None:
            raise NothingToLaunch(f"{name}: no such program, or it may not be executed")
        return Target("program", name, arguments)
    path = Path(name)
    if path.suffix == ".ipynb":
        if not path.is_file():
            raise NothingToLaunch(f"{name}: no such notebook")
        works_in = str(path.resolve().parent)  # as its kernel does
        exported = _exported(path, base, device)
        said = f"accelnb: lines are those of the script that {path.name} becomes"
        if base is None and device is None:  # else `accelnb export` may write another
            export = shlex.join(["accelnb", "export", name, "-o", _script_name(path)])
            said = f"accelnb: lines are those of the script: {export}"
        return Target("notebook", name, arguments, works_in, exported, said)
    _check_script(path)
    return Target("script", name, arguments)


def _check_module(name: str) -> None:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)  # where `python -m` looks first
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # a package above it is not there
        found = None
    if found is None:
        raise NothingToLaunch(f"{name}: no such module; launch from the folder that has it")


def _exported(notebook: Path, base: LaunchConfig | None, device: str | None) -> Exported:
    from accelnb.export import ExportError, export_notebook
    from accelnb.export.cells.notebook_file import read_notebook
    from accelnb.options.config import ConfigError, LaunchConfig, from_mapping
    from accelnb.options.config_file import FILE, read_file

    beside = notebook.with_name(FILE)
    if base is None:
        base = from_mapping(LaunchConfig, read_file(beside) if beside.exists() else {})
    if device is not None:
        base = from_mapping(LaunchConfig, {"device": device}, base)
    with tempfile.TemporaryDirectory(prefix="accelnb-launch-") as folder:
        try:
            read = read_notebook(notebook)
            exported = export_notebook(read, Path(folder, "script.py"), base=base)
        except ExportError as error:
            raise NothingToLaunch(str(error)) from error
    if device is not None and (others := exported.devices - {base.device}):
        named = min(others)
        said = f"the cells of {notebook.name} say device={named}: change the cell"
        raise ConfigError(f"device={device}: {said}", "device")
    return exported


def _check_script(path: Path) -> None:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise NothingToLaunch(f"{path}: {(error.strerror or str(error)).lower()}") from None
    try:
        compile(text, str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        raise NothingToLaunch(
            f"{path}, line {error.lineno}: is not Python: {error.msg}; launch other programs with "
            "--no-python"
        ) from None
    except ValueError:
        raise NothingToLaunch(
            f"{path}: is not Python; launch other programs with --no-python"
        ) from None


@contextlib.contextmanager
def as_script(target: Target) -> Iterator[Target]:
    """Yield the target, a notebook as the script that it exports to, which ends with the block."""
    if target.exported is None:
        yield target
        return
    notebook = Path(target.name)
    for note in target.exported.notes:
        print(f"accelnb: {notebook.name}: {note}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="accelnb-launch-") as folder:
        script = Path(folder, _script_name(notebook))
        script.write_text(target.exported.script, encoding="utf-8")
        yield replace(target, kind="script", name=str(script))


def _script_name(notebook: Path) -> str:
    return notebook.stem.replace(" ", "_") + ".py"
