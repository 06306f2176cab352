"""What is launched: a script, a module, a notebook, or any program."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from accelnb.errors import AccelnbError


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
    imports_from : str
        The folder that its imports look in first, if that is not the script's own.
    """

    kind: str
    name: str
    arguments: tuple[str, ...] = ()
    imports_from: str = ""

    @property
    def folder(self) -> Path:
        """Where the accelnb.yaml of this target is."""
        return Path(self.name).parent if self.kind in ("script", "notebook") else Path()


def find_target(
    name: str, arguments: tuple[str, ...] = (), *, module: bool = False, program: bool = False
) -> Target:
    """Look at what shall be launched.

    Parameters
    ----------
    module
        `name` is a module, as for ``python -m``.
    program
        `name` is a program of any language.

    Raises
    ------
    NothingToLaunch
        It is not there, or its text is not Python; names the line.

    Examples
    --------
    >>> from accelnb.launching import find_target
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
        return Target("notebook", name, arguments)
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
    if target.kind != "notebook":
        yield target
        return
    from accelnb.export import export_notebook

    notebook = Path(target.name)
    with tempfile.TemporaryDirectory(prefix="accelnb-launch-") as folder:
        script = Path(folder, notebook.stem.replace(" ", "_") + ".py")
        for note in export_notebook(notebook, script).notes:
            print(f"accelnb: {notebook.name}: {note}", file=sys.stderr)
        imports_from = str(notebook.parent.resolve())
        yield replace(target, kind="script", name=str(script), imports_from=imports_from)
