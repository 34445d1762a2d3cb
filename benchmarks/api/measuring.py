"""What is measured of a running service whose ledger holds 10,000 jobs."""

import asyncio
import random
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import uuid4

import httpx

from benchmarks.api.following import Streams
from benchmarks.api.following import measure as measure_streams
from benchmarks.api.load import Answer, Timed, one_by_one, request, steadily
from benchmarks.api.service import Service, working
from mixlab.ledger import Ledger
from mixlab.ledger.records import Job, JobKind, Queue

JOBS = 10_000
POLLS_A_SECOND, POLL_SECONDS = 300, 30
POLLED, CHILDREN = 200, 100
SUBMITS_A_SECOND, SUBMIT_SECONDS = 50, 20
STREAMS, STREAMED = 1000, 250
LISTS = 200
DRAINED_SECONDS = 300  # at most, for the messages of the jobs that the ledger is filled with
ROUND_TRIPS = 10


@dataclass(frozen=True)
class Measured:
    """Of one database."""

    polls: Timed
    fits: int  # that were finished beside the polls
    submits: Timed
    keyed: Timed  # the same, each with an Idempotency-Key
    lost: int  # acknowledged, and not in the ledger
    lists: Timed
    streams: Streams
    round_trips: Timed  # from a POST that waits to the ended job


def measure(service: Service) -> Measured:
    """Everything; polls and submits while fits run."""
    ids = _fill(service.ledger)
    _drained(service)
    with working(service):
        before = service.fits
        asked = _polls(service.url, ids)
        polls = steadily(service.url, asked, POLLS_A_SECOND, service.process_id)
        fits = service.fits - before
        submits, keyed = (_submit(service, keyed=keyed) for keyed in (False, True))
    acknowledged = _acknowledged([*submits.answers, *keyed.answers])
    lost = SUBMITS_A_SECOND * SUBMIT_SECONDS * 2 - len(acknowledged & _all(service.ledger))
    _end(service.ledger, acknowledged)
    listing = request(service.url, "GET", "/jobs?page_size=50")
    lists = asyncio.run(one_by_one(service.url, [listing] * LISTS))
    streams = _streams(service)
    return Measured(polls, fits, submits, keyed, lost, lists, streams, _round_trips(service))


def _fill(ledger: Ledger) -> list[str]:
    """Jobs as a team has them: nearly all have ended, one waits for a hundred children.

    Gives the ids of those that are polled, the one with children first.
    """
    ended = [ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU) for _ in range(JOBS - CHILDREN - 1)]
    _end(ledger, (job.id for job in ended))
    parent = _held(ledger, JobKind.FIT_MIXTURE, Queue.CPU)
    for number in range(CHILDREN):
        ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU, parent_id=parent.id, key=str(number))
    return [parent.id, *(job.id for job in ended[:POLLED])]


def _drained(service: Service) -> None:
    """Wait until workers have seen the messages of all those jobs: filling is not measured."""
    for _ in range(DRAINED_SECONDS):
        lines = httpx.get(f"{service.url}/metrics", trust_env=False).raise_for_status().text
        waiting = re.findall(r"^mixlab_queue_messages\{.*\} (\S+)$", lines, re.MULTILINE)
        if waiting and not any(map(float, waiting)):
            return
        time.sleep(1)
    raise TimeoutError(f"The broker still holds messages after {DRAINED_SECONDS} s.")


def _held(ledger: Ledger, kind: JobKind, queue: Queue) -> Job:
    """A job that no worker takes up."""
    job = ledger.submit(kind, {}, queue=queue, priority=-100)
    return ledger.request_pause(job.id)


def _end(ledger: Ledger, ids: Iterable[str]) -> None:
    for job_id in ids:
        ledger.request_cancel(job_id)


def _polls(url: str, ids: Sequence[str]) -> list[bytes]:
    """A tenth of them for the job with children, which is the most work."""
    rng = random.Random(1)
    asked = [request(url, "GET", f"/jobs/{job_id}") for job_id in ids]
    count = POLLS_A_SECOND * POLL_SECONDS
    return [asked[0] if rng.random() < 0.1 else rng.choice(asked) for _ in range(count)]


def _submit(service: Service, *, keyed: bool) -> Timed:
    """Ask for jobs that come after everything else."""
    corpus = service.ledger.add_corpus("to measure", {"domains": {}})
    path, count = f"/corpora/{corpus.id}/entropy?priority=-100", SUBMITS_A_SECOND * SUBMIT_SECONDS
    requests = []
    for _ in range(count):
        headers = {"Idempotency_Key": str(uuid4())} if keyed else {}
        requests.append(request(service.url, "POST", path, **headers))
    return steadily(service.url, requests, SUBMITS_A_SECOND, service.process_id)


def _acknowledged(answers: Iterable[Answer | None]) -> set[str]:
    return {one.json()["id"] for one in answers if one is not None and one.status == 202}


def _all(ledger: Ledger) -> set[str]:
    found: list[str] = []
    while page := ledger.jobs(limit=1000, after=found[-1] if found else None):
        found += [job.id for job in page]
    return set(found)


def _streams(service: Service) -> Streams:
    jobs = [_held(service.ledger, JobKind.TRAIN, Queue.GPU).id for _ in range(STREAMED)]
    ids = jobs * (STREAMS // STREAMED)
    change = lambda: _end(service.ledger, jobs)  # noqa: E731
    return asyncio.run(measure_streams(service.url, ids, service.process_id, change))


def _round_trips(service: Service) -> Timed:
    """The smallest real job: measuring a corpus of two short texts, once it is tokenised."""
    domains = {name: {"paths": [str(path)]} for name, path in service.texts.items()}
    body = {"name": "small", "domains": domains, "vocabulary": 300}
    ask = request(service.url, "POST", "/corpora", body)
    (made,) = asyncio.run(one_by_one(service.url, [ask])).answers
    assert made is not None
    path = f"/corpora/{made.json()['id']}/entropy"
    trip = request(service.url, "POST", path, Prefer="wait=60")
    found = asyncio.run(one_by_one(service.url, [trip] * ROUND_TRIPS))
    ends = [one.json() for one in found.answers if one is not None]
    assert all(end["state"] == "succeeded" for end in ends), ends[0]
    return found
