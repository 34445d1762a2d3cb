"""Metric families out of a tally of the ledger: values in, families out.

Names, labels and units are those of Prometheus' naming guide: base units, plural counts, no
label whose values have no bound. Distributions are gauge histograms, since they tell of the last
hour and may fall: `histogram_quantile` takes them as they are, without `rate`.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from prometheus_client.core import GaugeHistogramMetricFamily, GaugeMetricFamily, Metric

from mixlab.ledger.records import Queue, Worker
from mixlab.ledger.tallies import EDGES, LastLoss, Spread, Tally, Waiting

MOST_TARGETS = 16  # of one run


def gauge(
    name: str, text: str, labels: Iterable[str], values: Mapping[tuple[str, ...], float]
) -> Metric:
    """A family of gauges by the values of their labels."""
    family = GaugeMetricFamily(name, text, labels=list(labels))
    for label_values, value in values.items():
        family.add_metric(list(label_values), value)
    return family


def of_tally(tally: Tally) -> Iterator[Metric]:
    """What the ledger says of jobs."""
    yield gauge(
        "mixlab_jobs", "Jobs in the ledger.", ("kind", "state"),
        {(kind, state): count for (kind, state), count in tally.jobs.items()},
    )  # fmt: skip
    running = _by_queue(tally.running)
    yield gauge("mixlab_queue_running_jobs", "Jobs that a worker holds.", ("queue",), running)
    yield from _of_waiting(tally.waiting, tally.at)
    yield _spreads(
        "mixlab_job_wait_seconds",
        "Seconds from submission to the first attempt, of jobs begun in the last hour.",
        ("queue",),
        {(queue.value,): spread for queue, spread in tally.waits.items()},
    )
    yield _spreads(
        "mixlab_job_duration_seconds",
        "Seconds from the first attempt to the end, of jobs ended in the last hour.",
        ("kind", "state"),
        {(kind, state): spread for (kind, state), spread in tally.durations.items()},
    )
    yield gauge(
        "mixlab_leases_expired", "Attempts of the last hour whose worker was not heard of.", (),
        {(): tally.leases_expired},
    )  # fmt: skip
    yield gauge(
        "mixlab_job_failures",
        "Crashes, expired leases and faults in passing of jobs unfinished or ended in the last "
        "hour.",
        ("kind",), {(kind,): count for kind, count in tally.failures.items()},
    )  # fmt: skip
    yield _losses(tally.losses)


def of_workers(workers: Iterable[Worker], now: datetime) -> Iterator[Metric]:
    """What the workers' heartbeats say."""
    found = list(workers)
    names = {one.id: (one.id, one.host, one.queue.value) for one in found}
    yield gauge(
        "mixlab_worker_heartbeat_age_seconds", "Since a worker last said that it is alive.",
        ("worker", "host", "queue"),
        {names[one.id]: max(0.0, (now - one.beat_at).total_seconds()) for one in found},
    )  # fmt: skip
    yield gauge(
        "mixlab_worker_slots", "Jobs that a worker does at once.", ("worker", "host", "queue"),
        {names[one.id]: one.slots for one in found},
    )  # fmt: skip
    gpus = _gpus(found)
    yield gauge(
        "mixlab_gpus", "GPUs that workers of a host have.", ("host",),
        {(host,): len(busy) for host, busy in gpus.items()},
    )  # fmt: skip
    yield gauge(
        "mixlab_gpus_busy", "Those of them that a job has.", ("host",),
        {(host,): sum(busy.values()) for host, busy in gpus.items()},
    )  # fmt: skip


def _gpus(workers: Iterable[Worker]) -> dict[str, dict[str, bool]]:
    """By host, which of its GPUs are busy; several workers of a host may see the same ones."""
    seen: dict[str, dict[str, bool]] = {}
    for worker in workers:
        if worker.queue is Queue.GPU:
            here = seen.setdefault(worker.host, {})
            for gpu in worker.gpus:
                uuid = str(gpu["uuid"])
                here[uuid] = here.get(uuid, False) or bool(gpu.get("busy"))
    return seen


def _of_waiting(waiting: Mapping[Queue, Waiting], now: datetime) -> Iterator[Metric]:
    yield gauge(
        "mixlab_queue_due_jobs", "Queued jobs that a worker could take now.", ("queue",),
        _by_queue({queue: one.due for queue, one in waiting.items()}),
    )  # fmt: skip
    ages = {queue: _age(one.oldest_since, now) for queue, one in waiting.items()}
    yield gauge(
        "mixlab_queue_oldest_seconds", "How long the oldest of them has been due; 0 without any.",
        ("queue",), _by_queue(ages),
    )  # fmt: skip


def _age(since: datetime | None, now: datetime) -> float:
    return 0.0 if since is None else max(0.0, (now - since).total_seconds())


def _by_queue(values: Mapping[Queue, float]) -> dict[tuple[str, ...], float]:
    return {(queue.value,): value for queue, value in values.items()}


def _spreads(
    name: str, text: str, labels: tuple[str, ...], spreads: Mapping[tuple[str, ...], Spread]
) -> Metric:
    family = GaugeHistogramMetricFamily(name, text, labels=list(labels))
    for label_values, spread in spreads.items():
        buckets = [(f"{edge:g}", n) for edge, n in zip(EDGES, spread.at_most, strict=True)]
        family.add_metric(
            list(label_values), [*buckets, ("+Inf", spread.count)], gsum_value=spread.total_seconds
        )
    return family


def _losses(losses: Iterable[LastLoss]) -> Metric:
    values: dict[tuple[str, ...], float] = {
        (one.run_id, one.label, target): loss
        for one in losses
        for target, loss in list(one.losses_nats.items())[:MOST_TARGETS]
    }
    return gauge(
        "mixlab_run_loss_nats",
        "Last validation loss of runs that train now, in nats per token: the newest "
        f"20 runs, the first {MOST_TARGETS} targets of each.",
        ("run", "label", "target"), values,
    )  # fmt: skip
