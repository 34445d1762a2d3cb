"""The Celery application of the workers and the sweep.

Messages carry a job's id; what they say is checked against the ledger, so they
may come twice or never. Hence early acknowledgement: a message is done with
once a worker has seen it, and the ledger's lease, not the broker's visibility
timeout, brings back a job whose worker died. (Late acknowledgement would also
make a Celery 5.7.0 worker with several slots exit when its broker goes away.)
Without prefetching, no message waits behind a long job in a busy worker.

Nothing is kept of a task: there is no result backend, and the ledger has what
came of a job. Nothing but JSON is read, and of that an id alone is used.

SIGTERM is Celery's warm shutdown, of which the supervisors hear at once
(tasks.py), so that jobs make their checkpoints and go back into the queue.
REMAP_SIGTERM=SIGQUIT would make it a cold one, which tells them nothing and
ends them after the soft timeout: it is not to be set.
"""

import socket
import warnings
from typing import Any

from celery import Celery
from celery.exceptions import SecurityWarning
from celery.signals import setup_logging
from kombu.entity import Exchange
from kombu.entity import Queue as BrokerQueue

from mixlab.ledger.records import Queue
from workers import logs
from workers.beating import Beating
from workers.contract import KEY_PREFIX
from workers.settings import WorkerSettings


def configuration(broker_url: str) -> dict[str, Any]:
    """Celery's settings for a broker."""
    return {
        "broker_url": broker_url,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # a broker may be away for long
        "broker_transport_options": {
            "global_keyprefix": KEY_PREFIX,
            "visibility_timeout": 3600,
            "socket_keepalive": True,
            "socket_timeout": 30,
            "health_check_interval": 25,
            "retry_on_timeout": True,
        },
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "result_backend": None,
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        "task_track_started": False,
        "task_acks_late": False,
        "task_reject_on_worker_lost": False,
        "task_create_missing_queues": False,
        "task_queues": _queues(),
        "task_default_queue": Queue.CPU.value,
        "task_publish_retry_policy": {"max_retries": 1, "interval_start": 0.1},
        "worker_disable_prefetch": True,
        "worker_prefetch_multiplier": 1,
        "worker_redirect_stdouts": False,
        "worker_pool_restarts": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,  # they are the ledger's
        "worker_proc_alive_timeout": 60.0,  # 4 s, its own, kill a pool process of a busy machine
        "worker_soft_shutdown_timeout": 10,  # of SIGQUIT: what is short may still end
    }


def _queues() -> list[Any]:
    # kombu is partly typed: its constructors are not.
    queue: Any = BrokerQueue
    exchange: Any = Exchange
    return [queue(name.value, exchange(name.value), name.value) for name in Queue]


def make_app(settings: WorkerSettings) -> Celery:
    """The application for these settings."""
    made = Celery("mixlab", include=["workers.tasks"])
    made.conf.update(configuration(settings.broker_url.get_secret_value()))
    made.steps["consumer"].add(Beating)
    return made


@setup_logging.connect  # type: ignore[untyped-decorator]
def _log(**_: Any) -> None:
    """Keeps Celery from setting up its own."""
    settings = WorkerSettings()
    logs.configure(settings.log_format, settings.log_level, host=socket.gethostname())


# Containers run as root at times, and only JSON is accepted here: the warning is about pickle.
warnings.filterwarnings("ignore", category=SecurityWarning)
app = make_app(WorkerSettings())
