"""How often somebody may ask: a counter per address, and one per API key.

A sliding window, so that nobody gets twice the rate where two windows meet. Counted in memory,
or on the broker where several API processes share the load; while the broker is away each counts
for itself again. What is refused says when to come back.
"""

import logging
import math
import time
from typing import Any

from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import StorageError

from api.errors import RequestRefused
from api.settings import Settings
from workers.contract import KEY_PREFIX

log = logging.getLogger(__name__)


class Rates:
    """The counters of one API."""

    def __init__(self, settings: Settings) -> None:
        self.address = parse(settings.rate_per_address)
        self.key = parse(settings.rate_per_key)
        self.changes = parse(settings.changes_per_key)
        self.refusals = parse(settings.refusals_per_address)
        self._here = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._shared = _on_broker(settings) if settings.rates_on_broker else None

    async def count(self, rate: RateLimitItem, what: str, who: str) -> None:
        """Count one. Raises RequestRefused with 429 where it is one too many."""
        if not await self._ask("hit", rate, what, who):
            await self._refuse(rate, what, who)

    async def check(self, rate: RateLimitItem, what: str, who: str) -> None:
        """Raise RequestRefused with 429 where one more would be too many; count nothing."""
        if not await self._ask("test", rate, what, who):
            await self._refuse(rate, what, who)

    async def _refuse(self, rate: RateLimitItem, what: str, who: str) -> None:
        stats = await self._ask("get_window_stats", rate, what, who)
        seconds = max(1, math.ceil(stats.reset_time - time.time()))
        raise RequestRefused(
            429,
            f"Too many {what}: more than {rate}. Try again in {seconds} s.",
            headers={"Retry-After": str(seconds)},
        )

    async def _ask(self, question: str, *about: Any) -> Any:
        if self._shared is not None:
            try:
                return await getattr(self._shared, question)(*about)
            except StorageError as problem:
                log.warning("counting requests here alone: %s", type(problem.__cause__).__name__)
        return await getattr(self._here, question)(*about)


def _on_broker(settings: Settings) -> SlidingWindowCounterRateLimiter:
    storage = RedisStorage(
        "async+" + settings.broker_url.get_secret_value(),
        wrap_exceptions=True,
        implementation="redispy",
        key_prefix=f"{KEY_PREFIX}rates",
        socket_timeout=settings.broker_timeout_seconds,
        socket_connect_timeout=settings.broker_timeout_seconds,
    )
    return SlidingWindowCounterRateLimiter(storage)
