"""Settings of the notebook's process that this rank holds."""

from __future__ import annotations

import base64
import importlib
import itertools
import logging
import pickle
import sys
import warnings
from collections.abc import Mapping
from typing import Any

from accelnb.engine.settings.of_logging import LOGGERS, hold_loggers
from accelnb.engine.settings.of_python import FILTERS, hold_filters
from accelnb.engine.settings.setting import Setting
from accelnb.engine.settings.table import BY_NAME


class NotebookSettings:
    """Sets what the notebook has, and leaves what this rank's cells set until that changes."""

    def __init__(self) -> None:
        self._loggers: Any = None
        self._unresolved: Any = None  # filters, some of a library that is not imported here yet
        self._modules = len(sys.modules)
        self._unsaid: list[str] = []

    def follow(self, changes: Mapping[str, str | None]) -> None:
        """Set what changed; None stands for the library's default."""
        for name, packed in changes.items():
            setting = BY_NAME[name]
            try:
                self._hold(setting, setting.default if packed is None else _unpacked(packed))
            except Exception as error:
                self._unsaid.append(_refusal(setting, error))

    def before_values(self) -> None:
        """Take note of what is imported before the cell's values are rebuilt."""
        self._modules = len(sys.modules)

    def before_cell(self) -> None:
        """Set again what modules that came with the values set at their import; say what failed."""
        if len(sys.modules) != self._modules and self._loggers is not None:
            new = itertools.islice(sys.modules, self._modules, None)
            hold_loggers(logging, self._loggers, frozenset(name.partition(".")[0] for name in new))
        if self._unresolved is not None and hold_filters(warnings, self._unresolved, before=False):
            self._unresolved = None
        for line in self._unsaid:
            print(line, file=sys.stderr)
        self._unsaid.clear()

    def _hold(self, setting: Setting, value: Any) -> None:
        whole = setting.hold(importlib.import_module(setting.module), value)
        if setting is LOGGERS:
            self._loggers = value
        elif setting is FILTERS:
            self._unresolved = None if whole else value


def _unpacked(packed: str) -> Any:
    return pickle.loads(base64.b64decode(packed))


def _refusal(setting: Setting, error: Exception) -> str:
    reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    return f"accelnb: {setting.name} cannot be set here as in the notebook ({reason})"
