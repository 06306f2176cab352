"""What the settings of the notebook's process are now, ready to be sent."""

from __future__ import annotations

import base64
import sys
from collections.abc import Mapping
from typing import Any

from accelnb.engine.serialization.pack import pickled
from accelnb.engine.settings.setting import Setting
from accelnb.engine.settings.table import TABLE

_UNREAD = object()
_states: dict[str, Any] = {}  # of each setting, as it was read last
_differ: dict[str, str] = {}  # those that differ from the default, packed
_said: set[str] = set()


def settings_now() -> Mapping[str, str]:
    """Return the settings that differ from their defaults, packed.

    The mapping is the same object until one changes. What cannot be read or sent is said once.

    Examples
    --------
    >>> import decimal
    >>> from accelnb.engine.settings.snapshot import settings_now
    >>> decimal.getcontext().prec = 50
    >>> "the decimal context" in settings_now()
    True
    >>> decimal.getcontext().prec = 28
    """
    global _differ
    for setting in TABLE:
        module = sys.modules.get(setting.module)
        if module is None:
            continue
        try:
            state = setting.read(module)
            if state == _states.get(setting.name, _UNREAD):
                continue
            _states[setting.name] = setting.kept(state)
            packed = _packed(setting, state)
        except Exception as error:
            if not getattr(module.__spec__, "_initializing", False):  # else it is not whole yet
                _say(setting, error)
            continue
        others = {name: one for name, one in _differ.items() if name != setting.name}
        _differ = others if packed is None else others | {setting.name: packed}
    return _differ


def _packed(setting: Setting, state: Any) -> str | None:
    value = setting.value(state)
    if value == setting.default:
        return None
    return base64.b64encode(pickled(value)).decode()


def _say(setting: Setting, error: Exception) -> None:
    if setting.name in _said:
        return
    _said.add(setting.name)
    reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    print(
        f"accelnb: {setting.name} cannot be taken to the ranks, which keep their own ({reason})",
        file=sys.stderr,
    )
