"""An API key with every request, looked at before anything else of it is read.

    Authorization: Bearer mlk_...

A layer around all routes rather than a dependency of each, so that none can be without it, no
unknown path either, and no byte of a stranger's body is parsed. GET needs the scope `read`,
whatever changes or computes something `write`; `admin` may do both, with everybody's.

Until a first key is made, those on this machine need none. From then on everybody does. A key that
opened is remembered for MIXLAB_KEY_CACHE_SECONDS, so polls cost no look-up each and a revoked key
ends within that time; the streams that it opened end then too.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import anyio
from sqlalchemy.exc import OperationalError, TimeoutError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.callers import ON_THIS_MACHINE, Caller, KnownKeys, address_of, is_local, key_id
from api.errors import LedgerUnreachable, RequestRefused, ledger_down, refused
from api.hosts import SAFE_METHODS
from api.rates import Rates
from api.settings import Settings
from mixlab.ledger.records import ApiKey
from mixlab.ledger.records import Scope as KeyScope
from mixlab.ledger.sql import Ledger

log = logging.getLogger(__name__)

# The same for everybody, with nothing of anybody's: for health checks, and to read how to ask.
ALIVE = "/livez"
METRICS = "/metrics"
OPEN = frozenset({ALIVE, "/readyz", "/healthz", "/openapi.json", "/docs"})
LEDGER_AWAY = (LedgerUnreachable, OperationalError, TimeoutError)


class Authenticated:
    """Lets in who has a key with the right scope, no more often than allowed."""

    def __init__(
        self, app: ASGIApp, *, ledger: Callable[[], Ledger], settings: Settings, rates: Rates
    ) -> None:
        self._app = app
        self._keys = KnownKeys(ledger, settings.key_cache_seconds)
        self._look_again_seconds = max(settings.key_cache_seconds, 1.0)
        self._most = settings.max_requests_per_caller
        self._rates = rates
        self._under_way: Counter[str | None] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its caller in `state`, or refuse it."""
        if scope["type"] != "http" or scope["path"] == ALIVE:
            await self._app(scope, receive, send)
            return
        try:
            await self._rates.count(self._rates.address, "requests", address_of(scope))
            token = None
            if scope["path"] not in OPEN:
                token = token_of(scope)
                caller = await self._caller(scope, token)
                await self._check(scope, caller)
                scope.setdefault("state", {})["caller"] = caller
                key_id.set(caller.key_id)
        except RequestRefused as refusal:
            await refused(refusal, scope["path"])(scope, receive, send)
        except LEDGER_AWAY as problem:
            await ledger_down(problem, scope["path"])(scope, receive, send)
        else:
            await self._counted(scope, receive, send, token)

    async def _caller(self, scope: Scope, token: str | None) -> Caller:
        if token is None:
            return await self._without_key(scope)
        address = address_of(scope)
        if not self._keys.good(token):
            await self._rates.check(self._rates.refusals, "wrong API keys", address)
        key = await self._find(scope, token)
        if key is None:
            await self._rates.count(self._rates.refusals, "wrong API keys", address)
            log.warning("an API key from %s is not valid", address)
            raise _unauthorized("This API key is not valid: unknown, expired or revoked.")
        return Caller(key.id, frozenset(key.scopes))

    async def _find(self, scope: Scope, token: str) -> ApiKey | None:
        try:
            return await self._keys.find(token)
        except LEDGER_AWAY:
            # That the ledger is away is what metrics must tell to those who watch them.
            known = self._keys.known_lately(token)
            if scope["path"] != METRICS or known is None:
                raise
            return known

    async def _without_key(self, scope: Scope) -> Caller:
        if await self._keys.any_made():
            raise _unauthorized("This needs an API key: Authorization: Bearer mlk_...", given=False)
        if not is_local(scope):
            raise RequestRefused(
                403,
                "No API key was made yet, so only this machine is answered. `mixlab keys create "
                "NAME` makes one; in compose, docker compose run --rm api mixlab keys create NAME.",
            )
        return ON_THIS_MACHINE

    async def _check(self, scope: Scope, caller: Caller) -> None:
        """Raise RequestRefused for a missing scope, or too many requests."""
        who, changes = caller.key_id or "local", scope["method"] not in SAFE_METHODS
        needed = KeyScope.WRITE if changes else KeyScope.READ
        if not caller.may(needed):
            has = ", ".join(sorted(caller.scopes))
            raise RequestRefused(
                403,
                f"This API key lacks the scope {needed.value!r}; it has {has}.",
                headers={
                    "WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{needed.value}"'
                },
            )
        await self._rates.count(self._rates.key, "requests", who)
        if changes:
            await self._rates.count(self._rates.changes, "changes", who)
        if self._under_way[caller.key_id] >= self._most:
            raise RequestRefused(
                429,
                f"{self._most} requests of this API key are under way, as many as it may have.",
                headers={"Retry-After": "1"},
            )

    async def _counted(self, scope: Scope, receive: Receive, send: Send, token: str | None) -> None:
        caller: Caller | None = scope.get("state", {}).get("caller")
        who = caller.key_id if caller is not None else ""
        self._under_way[who] += 1
        try:
            if token is None:
                await self._app(scope, receive, send)
            else:
                await self._while_valid(scope, receive, send, token)
        finally:
            self._under_way[who] -= 1
            if not self._under_way[who]:
                del self._under_way[who]

    async def _while_valid(self, scope: Scope, receive: Receive, send: Send, token: str) -> None:
        """Answer; a key that ends meanwhile ends the answer."""
        looked, began = time.monotonic(), False

        async def sending(message: Message) -> None:
            nonlocal looked, began
            if time.monotonic() - looked > self._look_again_seconds:
                looked = time.monotonic()
                if not await self._still_valid(token):
                    ended.cancel()
                    await anyio.lowlevel.checkpoint()
            began = True
            await send(message)

        with anyio.CancelScope() as ended:
            await self._app(scope, receive, sending)
        if not ended.cancelled_caught:
            return
        if began:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            refusal = _unauthorized("This API key has ended.")
            await refused(refusal, scope["path"])(scope, receive, send)

    async def _still_valid(self, token: str) -> bool:
        try:
            return await self._keys.find(token) is not None
        except LEDGER_AWAY:
            return True  # it was, and without its ledger nothing new can be told


def token_of(scope: Scope) -> str | None:
    """The token of the Authorization header. Raises RequestRefused for any other use of it."""
    given = Headers(scope=scope).getlist("authorization")
    if not given:
        return None
    scheme, _, token = given[0].partition(" ")
    if len(given) > 1 or scheme.lower() != "bearer" or not token.strip():
        raise _unauthorized("The Authorization header must be: Bearer mlk_...")
    return token.strip()


def _unauthorized(detail: str, *, given: bool = True) -> RequestRefused:
    wrong = ', error="invalid_token"' if given else ""
    challenge = {"WWW-Authenticate": f'Bearer realm="mixlab"{wrong}'}
    return RequestRefused(401, detail, headers=challenge)


def describe(document: dict[str, Any], response: Callable[[int], Mapping[str, Any]]) -> None:
    """Put the key, and how requests without one are answered, into an OpenAPI document."""
    schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes["key"] = {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, as `mixlab keys create` printed it.",
    }
    for path, operations in document["paths"].items():
        for operation in operations.values():
            statuses = [414, 431] + ([408] if "requestBody" in operation else [])
            if path != ALIVE:
                statuses.append(429)
            if path not in OPEN:
                operation["security"] = [{"key": []}]
                statuses += [401, 403]
            for status in statuses:
                operation["responses"].setdefault(str(status), response(status))
