"""Whether other machines can reach this one: what is found before the start, not by a time-out."""

from __future__ import annotations

import array
import ipaddress
import socket
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from accelnb.errors import AccelnbError

_SIOCGIFADDR = 0x8915
_INTERFACE = "GLOO_SOCKET_IFNAME"


class NotReachable(AccelnbError):
    """Other machines could not reach this one. Nothing was started."""


@dataclass(frozen=True)
class Interface:
    """A network interface of this machine that others may reach."""

    name: str
    address: str

    def __str__(self) -> str:
        return f"{self.name} ({self.address})"


@dataclass(frozen=True)
class Reach:
    """By what the other machines reach this one.

    Attributes
    ----------
    variables : dict
        What the ranks' environment needs for it.
    address : str or None
        What the others call this machine, None for its host name.
    note : str
        What to tell the user, if something was put right.
    is_meeting_point : bool
        Whether they meet here, where torch would not find that out by the host name.
    """

    variables: Mapping[str, str]
    address: str | None = None
    note: str = ""
    is_meeting_point: bool = False


def reach(endpoint: str, environ: Mapping[str, str]) -> Reach:
    """Find out by which address the other machines of a launch reach this one.

    Each rank tells the others the address of its machine's own name. Debian's /etc/hosts makes
    that 127.0.1.1, which means themselves to the others: they wait until the time-out.

    Parameters
    ----------
    endpoint
        Where the machines meet, ``host:port``.

    Raises
    ------
    NotReachable
        The meeting point is each machine itself, or it cannot be told which interface to use.
    """
    host = endpoint.rpartition(":")[0].strip("[]") or endpoint
    own = socket.gethostname()
    found = addresses_of(host)
    if not found:
        raise NotReachable(
            f"--rdzv-endpoint {endpoint}: {host} is no known host; give an address, or add it to "
            "/etc/hosts on every machine"
        )
    own_names = {own, socket.getfqdn()} - {"localhost", "localhost.localdomain"}
    if _all_loopback(found) and host not in own_names:
        raise NotReachable(
            f"--rdzv-endpoint {endpoint}: {host} is each machine itself ({found[0]}); give the "
            "name or address of one of them that all can reach"
        )
    said = addresses_of(own)
    if (said and not _all_loopback(said)) or _INTERFACE in environ:
        return Reach({})
    what = f"resolves to {said[0]}" if said else "cannot be resolved"
    fault = f"this machine's name {own} {what}, where the others cannot reach it"
    usual = interfaces()
    chosen = _towards(found, usual)
    if chosen is None:
        raise NotReachable(f"{fault}: {_what_to_do(usual)}")
    note = f"{fault}: using {chosen}; for another, set {_INTERFACE} or correct /etc/hosts"
    here = bool({interface.address for interface in usual} & set(found))
    return Reach({_INTERFACE: chosen.name}, chosen.address, note, here)


def addresses_of(host: str) -> list[str]:
    """Return the addresses of a host's name, none if it cannot be resolved.

    Examples
    --------
    >>> from accelnb.cli.launching.reachable_address import addresses_of
    >>> addresses_of("127.0.0.1")
    ['127.0.0.1']
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(address[4][0]) for address in found))


def interfaces() -> list[Interface]:
    """Return the interfaces with an IPv4 address, without the loopback (Linux; elsewhere none)."""
    if not sys.platform.startswith("linux"):
        return []
    import fcntl

    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            request = array.array("B", struct.pack("256s", name.encode()[:15]))
            try:
                fcntl.ioctl(asking, _SIOCGIFADDR, request)
            except OSError:  # it has no address
                continue
            address = socket.inet_ntoa(request[20:24].tobytes())
            if not ipaddress.ip_address(address).is_loopback:
                found.append(Interface(name, address))
    return found


def _towards(hosts: list[str], usual: list[Interface]) -> Interface | None:
    """Return the interface by which this machine reaches the meeting point."""
    for address in hosts:
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
                asking.connect((address, 9))  # sends nothing: the system chooses the way
                own = asking.getsockname()[0]
        except OSError:
            continue
        for interface in usual:
            if interface.address == own:
                return interface
    return usual[0] if len(usual) == 1 else None


def _what_to_do(usual: list[Interface]) -> str:
    if not usual:
        return "connect it to a network, or correct /etc/hosts"
    shown = ", ".join(map(str, usual))
    return f"set {_INTERFACE} to one of {shown}, or correct /etc/hosts"


def _all_loopback(addresses: list[str]) -> bool:
    return all(ipaddress.ip_address(a.partition("%")[0]).is_loopback for a in addresses)
