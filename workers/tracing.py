"""Spans for OpenTelemetry: of requests, of attempts at jobs, and of the process that does one.

Made only where the extra `mixlab[otel]` is installed and OTEL_EXPORTER_OTLP_ENDPOINT (or
..._TRACES_ENDPOINT) says where they go; its other OTEL_* variables hold too. A request's span names
the job that it asked for, an attempt's span the same job, so that one finds the other: an attempt
may begin hours later, and a message says which queue has work, not which job is taken.
Limits: exporters have a thread, which no fork takes along. So each process makes its own at its
first span, and those that may end at once send what they have (`flush`).
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any

from mixlab import __version__
from mixlab.ledger.records import Job

log = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
FLUSH_MS = 2000  # a collector that is away shall not hold up a worker
_providers: dict[int, Any] = {}  # by process


@contextmanager
def span(
    name: str, *, component: str, carrier: Mapping[str, str] | None = None, **attributes: Any
) -> Iterator[None]:
    """A span around what is done within; in the trace that a carrier names, if it does."""
    if not wanted():
        yield
        return
    from opentelemetry.propagate import extract

    told = {key: value for key, value in attributes.items() if value is not None}
    tracer = _provider(component).get_tracer("mixlab", __version__)
    above = None if carrier is None else extract(carrier)
    with tracer.start_as_current_span(name, context=above, attributes=told):
        yield


@contextmanager
def of_attempt(job: Job, component: str) -> Iterator[None]:
    """The span of an attempt at a job, below the parent process's; all is sent at its end."""
    told = {"mixlab.job.id": job.id, "mixlab.job.attempt": job.attempt}
    try:
        with span(f"{component} {job.kind}", component=component, carrier=_left(), **told):
            yield
    finally:
        flush()


def note(name: str | None = None, **attributes: Any) -> None:
    """Add to the current span what is known only now."""
    if wanted():
        from opentelemetry.trace import get_current_span

        current = get_current_span()
        current.set_attributes(
            {key: value for key, value in attributes.items() if value is not None}
        )
        if name is not None:
            current.update_name(name)


def carried() -> dict[str, str]:
    """The current span as variables of a child's environment, where its own span finds it."""
    if not wanted():
        return {}
    from opentelemetry.propagate import inject

    found: dict[str, str] = {}
    inject(found)
    return {name.upper(): value for name, value in found.items()}


def _left() -> dict[str, str]:
    """The carrier that the parent process left in the environment."""
    names = ("TRACEPARENT", "TRACESTATE")
    return {name.lower(): os.environ[name] for name in names if name in os.environ}


def flush() -> None:
    """Send what this process has, before it ends or its pool lets it go."""
    provider = _providers.get(os.getpid())
    if provider is not None:
        provider.force_flush(FLUSH_MS)


def wanted() -> bool:
    """Whether spans are to be made here."""
    return any(os.environ.get(name) for name in ENDPOINTS) and _installed()


@cache
def _installed() -> bool:
    # Parents first: find_spec raises where the parent of a module is missing.
    found = find_spec("opentelemetry") and find_spec("opentelemetry.sdk")
    if not found:
        log.warning("no spans are made: they need pip install 'mixlab[otel]'")
    return found is not None


def _provider(component: str) -> Any:
    process = os.getpid()
    if process not in _providers:
        _providers.clear()  # a parent's, whose threads are not here
        _providers[process] = _made(component)
    return _providers[process]


def _made(component: str) -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    about = {"service.name": f"mixlab-{component}", "service.version": __version__}
    provider = TracerProvider(resource=Resource.create(about))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
