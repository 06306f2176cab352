"""The link between a notebook and its ranks: Jupyter messages, signed, over ZeroMQ.

The notebook holds a ROUTER, each rank a DEALER. Messages are those of Jupyter's protocol where
it has one (``stream``, ``display_data``, ``execute_request`` ...), signed and checked by
`jupyter_client.session.Session`; see https://jupyter-client.readthedocs.io/en/stable/messaging.html.
A message whose signature is wrong is dropped before anything in it is read. Between machines the
connection itself is encrypted and checked too: see `accelnb.engine.wire.encryption`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import zmq
from jupyter_client.jsonutil import json_default
from jupyter_client.session import Session

from accelnb.engine.wire.encryption import Curve

log = logging.getLogger(__name__)

# Messages that may wait in a socket. A rank whose notebook is slow then waits, and so does
# its print: a flood slows the rank that makes it and costs no memory.
_WAITING = 64

Buffers = Sequence[bytes | memoryview]


@dataclass(frozen=True)
class Message:
    """A message whose signature was right."""

    id: str
    sender: bytes
    kind: str
    content: dict[str, Any]
    buffers: list[memoryview]
    parent: str | None  # id of the request it belongs to


class Link:
    """One end of the wire; to be used by one thread."""

    def __init__(self, key: bytes, socket_type: int, curve: Curve | None = None) -> None:
        self._context = zmq.Context()
        self._guard = curve.admit_in(self._context) if curve and socket_type == zmq.ROUTER else None
        self.socket = self._context.socket(socket_type)
        if curve:
            curve.apply_to(self.socket)
        self.socket.sndhwm = self.socket.rcvhwm = _WAITING
        self.socket.sndtimeo = 1000  # ms; a process that reads nothing for that long is stuck
        self._session = Session(key=key, signature_scheme="hmac-sha256", username="accelnb")
        self._session.pack = _packed

    @classmethod
    def listen(cls, address: str, key: bytes, curve: Curve | None = None) -> Link:
        """Return the notebook's end."""
        link = cls(key, zmq.ROUTER, curve)
        link.socket.router_mandatory = True
        try:
            link.socket.bind(address)
        except zmq.ZMQError:
            link.close()
            raise
        return link

    @classmethod
    def dial(cls, address: str, key: bytes, identity: bytes, curve: Curve | None = None) -> Link:
        """Return a rank's end."""
        link = cls(key, zmq.DEALER, curve)
        link.socket.identity = identity
        link.socket.connect(address)
        return link

    def send(
        self,
        kind: str,
        content: dict[str, Any],
        *,
        to: bytes | None = None,
        parent: str | None = None,
        buffers: Buffers = (),
    ) -> str:
        """Send a message; return its id."""
        if buffers:
            content = content | {"buffers_digest": _digest(buffers)}
        message = self._session.msg(kind, content=content)
        if parent is not None:
            message["parent_header"] = {"msg_id": parent}
        self._session.send(self.socket, message, ident=to, buffers=list(buffers))  # type: ignore[arg-type]
        return message["header"]["msg_id"]

    def receive(self) -> Message | None:
        """Return the next message, or None if there is none or it was not signed rightly."""
        try:
            identities, raw = self._session.recv(self.socket, zmq.NOBLOCK, copy=False)
            if raw is None:
                return None
            # Jupyter's signature leaves the buffers out, and ours hold pickles.
            if raw["buffers"] and raw["content"].get("buffers_digest") != _digest(raw["buffers"]):
                raise ValueError("its buffers were changed")
        except (ValueError, TypeError, IndexError, KeyError) as exc:
            log.warning("dropped a message that is not signed with this notebook's key: %s", exc)
            return None
        return Message(
            id=raw["header"]["msg_id"],
            sender=identities[0] if identities else b"",
            kind=raw["header"]["msg_type"],
            content=raw["content"],
            buffers=list(raw["buffers"]),
            parent=raw["parent_header"].get("msg_id"),
        )

    @property
    def address(self) -> str:
        """Where the other end is to dial; the port may be one that the system picked."""
        return self.socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def writable(self) -> bool:
        """Return whether a send would not wait."""
        return bool(int(self.socket.getsockopt(zmq.EVENTS)) & zmq.POLLOUT)

    def close(self) -> None:
        if self._guard is not None:
            self._guard.stop()
        self._context.destroy(linger=0)


def check_sendable(content: dict[str, Any]) -> None:
    """Raise TypeError if `content` is not what JSON can hold."""
    __tracebackhide__ = True  # an error is to point at the cell's own line
    try:
        _packed(content)
    except (TypeError, ValueError) as error:
        raise TypeError(f"a display has to be text or JSON: {error}") from None


def _packed(part: Any) -> bytes:
    # Half of a surrogate pair, which a str may hold, is nothing that UTF-8 can: "?" instead.
    return json.dumps(part, default=json_default, ensure_ascii=False).encode("utf-8", "replace")


def _digest(buffers: Buffers) -> str:
    digest = hashlib.blake2b()
    for buffer in buffers:
        digest.update(len(memoryview(buffer).cast("B")).to_bytes(8, "little"))
        digest.update(buffer)
    return digest.hexdigest()
