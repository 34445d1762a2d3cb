"""Who a request is from: an API key, or somebody on this machine while no key was made."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import Scope

from mixlab.ledger.records import ApiKey
from mixlab.ledger.records import Scope as KeyScope
from mixlab.ledger.sql import Ledger

# A proxy's marks: whoever is behind it is not on this machine.
FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
MOST_REMEMBERED = 10_000
GOOD_FOR_SECONDS = 3600.0  # a token that opened is looked up again, whoever guesses beside it


@dataclass(frozen=True)
class Caller:
    """Who asks, and what they may."""

    key_id: str | None  # None: somebody on this machine, before any key was made
    scopes: frozenset[KeyScope]

    @property
    def sees_everything(self) -> bool:
        """Whether others' work is shown too."""
        return KeyScope.ADMIN in self.scopes

    def sees(self, owner: str | None) -> bool:
        """Whether what belongs to that owner is shown to it."""
        return self.sees_everything or self.key_id in (None, owner)

    def may(self, needed: KeyScope) -> bool:
        """Whether the scopes allow it."""
        return needed in self.scopes or self.sees_everything


ON_THIS_MACHINE = Caller(None, frozenset(KeyScope))

# For the lines of a log. Never reset: the context belongs to one request alone.
key_id: ContextVar[str | None] = ContextVar("key_id", default=None)


class KnownKeys:
    """The ledger's keys, asked at most once in a short while for each token.

    Tokens are remembered by their hash. Wrong ones are not remembered, since there are endless.
    """

    def __init__(self, ledger: Callable[[], Ledger], seconds: float) -> None:
        self._ledger = ledger
        self._seconds = seconds
        self._opened: OrderedDict[bytes, tuple[float, ApiKey]] = OrderedDict()
        self._any_made: tuple[float, bool] | None = None

    async def any_made(self) -> bool:
        """Whether a key was ever made."""
        known = self._any_made
        if known is not None and (known[1] or time.monotonic() - known[0] < self._seconds):
            return known[1]
        found = await run_in_threadpool(lambda: self._ledger().keys.exist())
        self._any_made = (time.monotonic(), found)
        return found

    def good(self, token: str) -> bool:
        """Whether the token opened not long ago."""
        return self.known_lately(token) is not None

    def known_lately(self, token: str) -> ApiKey | None:
        """The key that the token opened not long ago, whatever has become of it since."""
        return self._within(_digest(token), GOOD_FOR_SECONDS)

    async def find(self, token: str) -> ApiKey | None:
        """The key that a token opens now, or did so a moment ago."""
        digest = _digest(token)
        known = self._within(digest, self._seconds)
        if known is not None:
            return known
        asked = time.monotonic()  # before the look-up, so that no answer is older than told
        key = await run_in_threadpool(lambda: self._ledger().keys.check(token))
        self._opened.pop(digest, None)
        if key is not None:
            self._opened[digest] = (asked, key)
            if len(self._opened) > MOST_REMEMBERED:
                self._opened.popitem(last=False)
        return key

    def _within(self, digest: bytes, seconds: float) -> ApiKey | None:
        known = self._opened.get(digest)
        if known is None or time.monotonic() - known[0] >= seconds:
            return None
        return known[1]


def address_of(scope: Scope) -> str:
    """The client's address; of IPv6 the network, since a host has billions of addresses there."""
    found = _client(scope)
    if isinstance(found, IPv6Address):
        return str(IPv6Address(int(found) >> 64 << 64))
    return str(found or "unknown")


def is_local(scope: Scope) -> bool:
    """Whether a request comes from this machine itself, through no proxy."""
    found, headers = _client(scope), Headers(scope=scope)
    return found is not None and found.is_loopback and not any(h in headers for h in FORWARDED)


def _client(scope: Scope) -> IPv4Address | IPv6Address | None:
    client = scope.get("client")
    try:
        found = ip_address(client[0]) if client else None
    except ValueError:
        return None
    if isinstance(found, IPv6Address):
        return found.ipv4_mapped or found
    return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
