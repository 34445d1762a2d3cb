"""What a scrape finds: the ledger, the broker and the home folder, asked at that moment.

Several API processes agree, since none counts jobs by itself; what each tells of its own requests
(observing.py) is to be summed. A scrape's findings hold for 2 s, so that many scrapers, or one
that hurries, cost the ledger no more than one.
"""

import logging
import platform
import time
from collections.abc import Iterator
from threading import Lock

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from api.dependencies import Resources
from api.errors import LedgerUnreachable
from api.metrics.families import gauge, of_tally, of_workers
from mixlab import __version__

log = logging.getLogger(__name__)

HOLDS_SECONDS = 2.0


class Scraped(Collector):
    """Families made when they are asked for."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._lock = Lock()
        self._found: list[Metric] = []
        self._until = 0.0

    def collect(self) -> list[Metric]:
        """All families; those of the last 2 s where there are some."""
        with self._lock:
            if time.monotonic() >= self._until:
                self._found = list(self._ask())
                self._until = time.monotonic() + HOLDS_SECONDS
            return self._found

    def _ask(self) -> Iterator[Metric]:
        versions = {"version": __version__, "python": platform.python_version()}
        yield InfoMetricFamily("mixlab_build", "What runs here.", value=versions)
        yield from self._ledger()
        yield from self._broker()
        yield from self._home()

    def _ledger(self) -> Iterator[Metric]:
        began = time.perf_counter()
        found: list[Metric] = []
        try:
            ledger = self._resources.ledger()
            tally = ledger.tallies.now()
            found += of_tally(tally)
            found += of_workers(ledger.fleet.workers(), tally.at)
        except (LedgerUnreachable, SQLAlchemyError) as problem:
            log.warning("metrics without the ledger: %s", type(problem).__name__)
        yield gauge("mixlab_ledger_up", "Whether the ledger answers.", (), {(): float(bool(found))})
        seconds = time.perf_counter() - began
        yield gauge("mixlab_ledger_tally_seconds", "How long counting took.", (), {(): seconds})
        yield from found

    def _broker(self) -> Iterator[Metric]:
        depths = self._resources.dispatcher.depths()
        up = float(depths is not None)
        yield gauge("mixlab_broker_up", "Whether the broker answers.", (), {(): up})
        waiting = depths or {}
        values: dict[tuple[str, ...], float] = {(q.value,): n for q, n in waiting.items()}
        yield gauge(
            "mixlab_queue_messages", "Messages on the broker; absent while it is away.",
            ("queue",), values,
        )  # fmt: skip

    def _home(self) -> Iterator[Metric]:
        found = self._resources.disk.look()
        up = float(found is not None and found.writable)
        yield gauge("mixlab_home_writable", "Whether the home folder takes a file.", (), {(): up})
        if found is not None:
            yield gauge("mixlab_home_free_bytes", "Free on its disk.", (), {(): found.free_bytes})
            yield gauge("mixlab_home_size_bytes", "All of its disk.", (), {(): found.size_bytes})


def registry_of(resources: Resources) -> CollectorRegistry:
    """What `/metrics` shows of one running API; requests are added by observing.py."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    registry.register(Scraped(resources))
    return registry
