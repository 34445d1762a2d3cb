"""Where reading remote corpora may connect: to public addresses, and private ones that are named.

Object stores are reached by libraries that resolve names, follow redirects and take endpoints from
the environment, so no look at a URL can tell where they end up. Python tells of every connection
just before it is made (audit event `socket.connect`), with the address that a name was resolved
to: there is nothing between this look and the connection for a name to change its mind in (DNS
rebinding). Private, loopback, link-local and metadata addresses are refused then.

`guard` holds for the whole process and can't be taken back, as audit hooks can't: call it in a
process that reads corpora and nothing else. Limits: connections that are not made by Python's
sockets are not seen, such as libpq's to the ledger, or those of a library in Rust; so only the
schemes of paths.py are read. Linux and macOS.
"""

import sys
from collections.abc import Collection
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any

from mixlab.errors import InvalidInput, PathNotAllowed

Address = IPv4Address | IPv6Address
Endpoint = tuple[IPv4Network | IPv6Network, int | None]

# Not public either, whatever Python's table of a version says: where Azure's and Oracle's machines
# find their metadata, and IPv4 addresses written as IPv6 in a form of old.
ALSO_PRIVATE = (
    ip_network("168.63.129.16/32"),
    ip_network("192.0.0.0/24"),
    ip_network("::/96"),
)
NAT64 = ip_network("64:ff9b::/96")

_guarded = False
_endpoints: tuple[Endpoint, ...] = ()
_refused: str | None = None


def guard(endpoints: Collection[str]) -> None:
    """From now on let this process connect to public addresses and these endpoints alone.

    An endpoint is an address, a network, or either with a port: 10.0.0.5:9000, fd00::/8,
    [::1]:9000. Raises InvalidInput for anything else.
    """
    global _guarded, _endpoints
    _endpoints = tuple(map(endpoint, endpoints))
    if not _guarded:
        _guarded = True
        sys.addaudithook(_on_event)


def last_refusal() -> str | None:
    """Why a connection was refused, the last time that one was."""
    return _refused


def endpoint(text: str) -> Endpoint:
    """An endpoint as it is written. Raises InvalidInput."""
    place, port = text.strip(), None
    if place.startswith("["):
        place, bracket, rest = place[1:].partition("]")
        if bracket and rest.startswith(":"):
            port = rest[1:]
    elif place.count(":") == 1:
        place, _, port = place.partition(":")
    try:
        network = ip_network(place, strict=False)
        number = None if port is None else int(port)
    except ValueError as error:
        raise InvalidInput(
            f"{text!r} is no address, network, or either with a port (10.0.0.5:9000, fd00::/8, "
            "[::1]:9000); names are not taken, since who answers to one may change."
        ) from error
    return network, number


def refusal(host: Any, port: Any, endpoints: Collection[Endpoint]) -> str | None:
    """Why a connection is refused, None where it isn't."""
    try:
        address = _unwrapped(ip_address(str(host).partition("%")[0]))
    except ValueError:
        return f"{host!r} is a name; only addresses that names were resolved to are connected to"
    if _is_public(address) or any(
        address in network and number in (None, port) for network, number in endpoints
    ):
        return None
    return f"{address} (port {port}) is not a public address"


def _is_public(address: Address) -> bool:
    private = address.is_multicast or any(address in network for network in ALSO_PRIVATE)
    return address.is_global and not private


def _unwrapped(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, where it does."""
    if isinstance(address, IPv4Address):
        return address
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else address)


def _on_event(event: str, arguments: tuple[Any, ...]) -> None:
    global _refused
    if event not in ("socket.connect", "socket.sendto"):
        return
    target = arguments[1]
    if not isinstance(target, tuple):
        return  # a Unix socket
    reason = refusal(target[0], target[1], _endpoints)
    if reason is not None:
        _refused = reason
        raise PathNotAllowed(
            f"{reason}; the operator may name it in MIXLAB_REMOTE_ENDPOINTS if corpora lie there."
        )
