"""What a cell without options gets: from this session, from accelnb.yaml, from its kernel."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from accelnb.jupyter.front_ends import notebook_folder
from accelnb.options.config import ConfigError, LaunchConfig, options
from accelnb.options.config_file import FILE, FileValues, read_file
from accelnb.options.environment import working_folder

_DO_WITHOUT = "correct it, or do without the file in this session: %accelnb config --ignore-file"


class Defaults:
    """The options that hold where a magic line gives none.

    What was chosen for this session goes before the notebook's accelnb.yaml, and that before the
    options that the kernel was started with.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self.of_kernel = LaunchConfig()
        self.chosen: LaunchConfig | None = None
        self.ignores_file = False
        self._found: tuple[Any, Path] | None = None
        self._read: tuple[Path, tuple[int, ...], FileValues | ConfigError] | None = None

    @property
    def path(self) -> Path:
        """Where the notebook's accelnb.yaml is, or would be."""
        depends_on = (working_folder(), self._shell.user_ns.get("__vsc_ipynb_file__"))
        if self._found is None or self._found[0] != depends_on:
            self._found = (depends_on, notebook_folder(self._shell) / FILE)
        return self._found[1]

    def config(self) -> LaunchConfig:
        """Return the options in force.

        Raises
        ------
        ConfigError
            accelnb.yaml is wrong, and neither a choice for this session nor `ignores_file`
            stands in for it.
        """
        if self.chosen is not None:
            return self.chosen
        return dataclasses.replace(self.of_kernel, **self._file())

    def origins(self) -> dict[str, str]:
        """Return where each option that is not the general default comes from."""
        values = self.config()
        file = self._file() if self.chosen is None else None
        return {
            option.name: self._origin(option.name, file)
            for option in options(LaunchConfig)
            if getattr(values, option.name) != option.default or (file and option.name in file)
        }

    def explain(self, error: ConfigError, given: Iterable[str]) -> ConfigError:
        """Say where a wrong value comes from, if not from the magic line that gave `given`."""
        name = error.option
        if name is None or name in given or name not in (origins := self.origins()):
            return error
        if self.chosen is None and name in self._file():
            return ConfigError(f"{origins[name]}: {error}", name)
        return ConfigError(f"{error} ({origins[name]})", name)

    def _origin(self, name: str, file: FileValues | None) -> str:
        if file is None:
            return "chosen for this session"
        return file.where(name) if name in file else "an option of this kernel"

    def _file(self) -> FileValues:
        """Return what accelnb.yaml says, read again only when it has changed."""
        path = self.path
        if self.ignores_file:
            return FileValues(path)
        try:
            found = os.stat(path)
        except FileNotFoundError:
            return FileValues(path)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}; {_DO_WITHOUT}") from None
        state = (found.st_mtime_ns, found.st_size, found.st_ino)
        if self._read is None or self._read[:2] != (path, state):
            self._read = (path, state, _read(path))
        values = self._read[2]
        if isinstance(values, ConfigError):
            raise values.with_traceback(None)
        return values


def _read(path: Path) -> FileValues | ConfigError:
    try:
        return read_file(path)
    except ConfigError as error:
        return ConfigError(f"{error}; {_DO_WITHOUT}", error.option)
