"""Putting the ids of queued jobs on the broker.

The ledger says which ids are not there. Sending one twice is harmless, since
only one claim wins; so it is sent first and marked afterwards.
"""

from celery import Celery
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from mixlab.ledger import Ledger
from mixlab.ledger.records import Queue
from workers.contract import TASK_RUN_JOB

BROKER_ERRORS = (KombuError, RedisError, OSError)


def send_unsent(
    app: Celery,
    ledger: Ledger,
    *,
    resend_after_seconds: float | None = None,
    queue: Queue | None = None,
) -> int:
    """Send what is not on the broker, of one queue or all; how many.

    Raises one of BROKER_ERRORS if it can't.
    """
    jobs = ledger.unsent(resend_after_seconds, queue)
    for job in jobs:
        app.send_task(TASK_RUN_JOB, args=(job.id,), queue=job.queue.value, ignore_result=True)
        # With the attempt: a job that was done and queued again in between stays unsent.
        ledger.mark_sent(job.id, job.attempt)
    return len(jobs)


def empty_queues(app: Celery) -> list[Queue]:
    """The queues without a message waiting. Raises one of BROKER_ERRORS at once if it can't say."""
    # kombu would otherwise try for 6 s, in which the sweep takes back no lease.
    once = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}
    with app.connection_for_read(transport_options=once) as connection:
        channel = connection.default_channel
        return [q for q in Queue if channel.queue_declare(q.value).message_count == 0]
