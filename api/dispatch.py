"""Send job ids to the broker, without ever making a request depend on it.

The ledger holds the job already, so a message is a wake-up and nothing more:
where the broker is down the job stays queued, and the sweep sends it again.
"""

import logging
from functools import cached_property
from typing import Any

from celery import Celery
from kombu.exceptions import KombuError
from sqlalchemy.exc import SQLAlchemyError

from mixlab.ledger.records import Job, Queue
from mixlab.ledger.sql import Ledger
from workers import tracing
from workers.contract import KEY_PREFIX, TASK_RUN_JOB

AT_ONCE: dict[str, Any] = {
    "max_retries": 1,
    "interval_start": 0,
    "interval_step": 0,
    "interval_max": 0,
}

log = logging.getLogger(__name__)


class Dispatcher:
    """A bare Celery producer: it knows the task's name, and none of its code."""

    def __init__(self, broker_url: str, *, timeout_seconds: float) -> None:
        self._celery = Celery(broker=broker_url, set_as_current=False)
        self._celery.conf.update(producer_settings(timeout_seconds))

    def send(self, job: Job, ledger: Ledger) -> bool:
        """Send a queued job's id and note it in the ledger; False where the broker is down."""
        tracing.note(**{"mixlab.job.id": job.id})
        try:
            self._celery.send_task(
                TASK_RUN_JOB, args=(job.id,), queue=job.queue.value, ignore_result=True
            )
        except self._refusals as problem:
            # Only the class: the text of some drivers holds the URL and its password.
            log.warning(
                "%s stays queued until the sweep sends it: the broker can't be reached (%s)",
                job.id,
                type(problem).__name__,
            )
            return False
        try:
            ledger.mark_sent(job.id, job.attempt)
        except SQLAlchemyError as problem:
            # The job is recorded and sent; the sweep sends it once more, which does no harm.
            log.warning("%s was sent, but not noted so: %s", job.id, type(problem).__name__)
        return True

    def reachable(self) -> bool:
        """Whether the broker answers now, within the timeout."""
        try:
            with self._celery.connection_for_write() as connection:
                connection.ensure_connection(**AT_ONCE)
        except self._refusals:
            return False
        return True

    def depths(self) -> dict[Queue, int] | None:
        """How many messages wait in each queue; None where the broker doesn't answer at once."""
        try:
            with self._celery.connection_for_write() as connection:
                connection.ensure_connection(**AT_ONCE)
                channel = connection.default_channel
                return {q: channel.queue_declare(q.value).message_count for q in Queue}
        except self._refusals:
            return None

    def close(self) -> None:
        """Let go of the broker's connections."""
        self._celery.close()

    @cached_property
    def _refusals(self) -> tuple[type[Exception], ...]:
        """What the broker's transport raises, wrapped by kombu or not."""
        transport = self._celery.connection_for_write().transport
        return (KombuError, OSError, *transport.connection_errors, *transport.channel_errors)


def producer_settings(timeout_seconds: float) -> dict[str, Any]:
    """Celery settings of a producer that gives up after one retry.

    kombu sleeps 2 s and more between attempts to connect unless its transport
    options say otherwise, whatever the publish policy is.
    """
    return {
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_ignore_result": True,
        "task_publish_retry": True,
        "task_publish_retry_policy": AT_ONCE,
        "broker_connection_timeout": timeout_seconds,
        "broker_transport_options": {
            **AT_ONCE,
            "socket_connect_timeout": timeout_seconds,
            "socket_timeout": timeout_seconds,
            "global_keyprefix": KEY_PREFIX,
        },
    }
