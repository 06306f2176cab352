"""Waits for stores: torch's own are deaf to signals, and end with nothing but their time limit."""

from __future__ import annotations

import contextlib
import functools
import socket
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from accelnb.worker.tcp_connections import Connections
from accelnb.worker.waits import Wait, Waits, wrap

_Time = timedelta | float
_CONNECT = 1.0  # s; a host that does not answer at all is asked again
_DEFAULT_TIMEOUT = timedelta(seconds=300)  # torch's own


def wrap_stores(waits: Waits, connections: Connections, is_own: Callable[[str, int], bool]) -> None:
    """Have stores ask for their keys again and again while the main thread waits.

    Parameters
    ----------
    connections
        Where to note those of stores' clients, for what cannot be done so.
    is_own
        Whether the group's own store is at an address: its port is open before it is served.
    """
    for name, instead in (
        ("wait", _wait),
        ("get", _get),
        ("multi_get", _wait),
        ("queue_pop", _queue_pop),
        ("barrier", _barrier),
    ):
        wrap(dist.Store, name, functools.partial(instead, waits))
    wrap(dist.TCPStore, "__init__", functools.partial(_open, waits, connections, is_own))


def _wait(waits: Waits, method: Any, store: Any, keys: Iterable[str], *timeout: _Time) -> Any:
    __tracebackhide__ = True
    keys = keys if isinstance(keys, str | bytes) else list(keys)
    if waits.concerns_this_thread:
        _await_keys(waits, store, keys, *timeout)
    return method(store, keys, *timeout)


def _get(waits: Waits, method: Any, store: Any, key: str) -> bytes:
    __tracebackhide__ = True
    if waits.concerns_this_thread:
        _await_keys(waits, store, [key])
    return method(store, key)


def _await_keys(
    waits: Waits, store: Any, keys: Sequence[str], timeout: _Time | None = None
) -> None:
    __tracebackhide__ = True
    limit = _timedelta(store.timeout if timeout is None else timeout)
    waits.until(lambda: _may_have(store, keys), _of_keys(keys), limit, _too_long(keys, limit))


def _may_have(store: Any, keys: Sequence[str]) -> bool:
    """Return whether a store has keys, or cannot be asked: its own method says why."""
    try:
        return not keys or store.check(keys)
    except dist.DistNetworkError:
        raise  # its server is gone
    except (RuntimeError, TypeError):
        return True


def _queue_pop(waits: Waits, method: Any, store: Any, key: str, block: bool = True) -> bytes:
    __tracebackhide__ = True
    if not block or not waits.concerns_this_thread:
        return method(store, key, block)
    popped: list[bytes] = []

    def pop() -> bool:
        with contextlib.suppress(dist.QueueEmptyError):
            popped.append(method(store, key, False))
        return bool(popped)

    waits.until(pop, _of_keys([key]), store.timeout, _too_long([key], store.timeout))
    return popped[0]


def _barrier(waits: Waits, method: Any, store: Any, key: str, *args: Any, **kwargs: Any) -> None:
    __tracebackhide__ = True
    with waits.noted(Wait(f"store barrier {key!r}", breaks="store")):
        method(store, key, *args, **kwargs)


def _open(
    waits: Waits,
    connections: Connections,
    is_own: Callable[[str, int], bool],
    method: Any,
    store: Any,
    host_name: str,
    port: int,
    world_size: int | None = None,
    is_master: bool = False,
    timeout: _Time = _DEFAULT_TIMEOUT,
    *args: Any,
    **kwargs: Any,
) -> None:
    __tracebackhide__ = True
    timeout = _timedelta(timeout)
    wait = Wait(f"TCPStore at {host_name}:{port}", breaks="store")
    if waits.concerns_this_thread and not is_master and not is_own(host_name, port):
        late = dist.DistNetworkError(
            f"no store has come to {host_name}:{port} within {_ms(timeout)}ms"
        )
        is_there = functools.partial(_answers, host_name, port)
        waits.until(is_there, wait._replace(breaks=""), timeout, late)
    with waits.noted(wait), connections.noting(lambda _, peer: peer == port):
        method(store, host_name, port, world_size, is_master, timeout, *args, **kwargs)


def _answers(host: str, port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection((host, port), timeout=_CONNECT).close()
        return True
    return False


def _of_keys(keys: Sequence[str]) -> Wait:
    names = ", ".join(repr(key) for key in keys)
    return Wait(f"store wait for key{'s' * (len(keys) > 1)} {names}")


def _too_long(keys: Sequence[str], limit: timedelta) -> dist.DistStoreError:
    """Return what torch raises."""
    names = ", ".join(map(str, keys))
    return dist.DistStoreError(f"wait timeout after {_ms(limit)}ms, keys: {names}")


def _timedelta(time: _Time) -> timedelta:
    """Return a time as torch takes it, which takes seconds too."""
    return time if isinstance(time, timedelta) else timedelta(seconds=time)


def _ms(time: timedelta) -> int:
    return round(time.total_seconds() * 1000)
