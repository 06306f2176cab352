"""Encrypted connections between machines, to known processes only (CurveZMQ, RFC 26).

The notebook has a pair of keys and its ranks have one; both are made anew for each group. A rank
knows the notebook by its public key, and the notebook lets in nobody but who has the ranks' key.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import zmq

if TYPE_CHECKING:
    from zmq.auth.thread import ThreadAuthenticator


@dataclass(frozen=True)
class Curve:
    """What one end of a connection knows: its own keys, and the public key of the other.

    Examples
    --------
    >>> from accelnb.engine.wire.encryption import Curve
    >>> notebook, ranks = Curve.pair()
    >>> Curve(**ranks.to_json()) == ranks and notebook.others == ranks.public
    True
    """

    public: str
    secret: str
    others: str

    @classmethod
    def pair(cls) -> tuple[Curve, Curve]:
        """Return new keys for the notebook and for its ranks."""
        (one, one_secret), (other, other_secret) = (
            tuple(key.decode() for key in zmq.curve_keypair()) for _ in range(2)
        )
        return cls(one, one_secret, other), cls(other, other_secret, one)

    def to_json(self) -> dict[str, str]:
        return asdict(self)

    def apply_to(self, socket: zmq.Socket[bytes]) -> None:
        """Make a socket that is not connected yet use these keys."""
        socket.curve_publickey = self.public.encode()
        socket.curve_secretkey = self.secret.encode()
        if socket.type == zmq.ROUTER:
            socket.curve_server = True
        else:
            socket.curve_serverkey = self.others.encode()

    def admit_in(self, context: zmq.Context[zmq.Socket[bytes]]) -> ThreadAuthenticator:
        """Let only the other end connect to the sockets of `context`; stop what this returns."""
        from zmq.auth.thread import ThreadAuthenticator

        guard = ThreadAuthenticator(context)
        guard.start()
        guard.configure_curve_callback(credentials_provider=_Only(self.others))
        return guard


class _Only:
    """The one key that is let in, as pyzmq asks for it."""

    def __init__(self, public: str) -> None:
        self._public = public.encode()

    def callback(self, domain: str, key: bytes) -> bool:
        return key == self._public
