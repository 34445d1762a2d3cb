"""Event streams over a real server: what they tell, where they go on, when they end."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from api.app import create_app
from api.jobs import streams, watching
from api.settings import Settings
from mixlab.ledger import Ledger
from mixlab.ledger.records import Job, JobKind, JobState, Queue
from tests.api.served import HTTP, Frame, frames_of, listening, served, until


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    return create_app(
        Settings(
            home=tmp_path_factory.mktemp("home"), broker_url="redis://127.0.0.1:1/0",
            max_streams=60,
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def url(app: FastAPI) -> Iterator[str]:
    before, watching.TICK_SECONDS = watching.TICK_SECONDS, 0.05
    with served(app, app.state.settings) as running:
        yield running
    watching.TICK_SECONDS = before


@pytest.fixture
def ledger(app: FastAPI, url: str) -> Ledger:
    found: Ledger = app.state.resources.ledger()
    return found


@pytest.fixture
def job(ledger: Ledger) -> Job:
    return ledger.submit(JobKind.FIT_MIXTURE, {"secret": "not shown"}, queue=Queue.CPU)


def claim(ledger: Ledger, job: Job) -> int:
    claimed = ledger.claim(job.id, "worker-1", 60)
    assert claimed is not None
    return claimed.attempt


def transitions(frames: list[Frame]) -> list[tuple[str, int]]:
    return [(frame.event, int(frame.id)) for frame in frames if frame.id]


def recorded(ledger: Ledger, job: Job) -> list[tuple[str, int]]:
    return [(each.event, each.seq) for each in ledger.events(job.id)]


def test_a_stream_tells_what_was_and_what_comes_until_the_end(
    url: str, ledger: Ledger, job: Job
) -> None:
    with listening(f"{url}/jobs/{job.id}/events") as frames:
        first = [next(frames), next(frames)]
        assert [frame.event for frame in first] == ["job", "submitted"]
        attempt = claim(ledger, job)
        ledger.progress(job.id, attempt, stage="fit", fraction=0.5)
        ledger.succeed(job.id, attempt, {"href": "/mixtures/mix_1"})
        told = first + list(frames)
    assert transitions(told) == recorded(ledger, job)
    assert told[-1].event == "succeeded"
    snapshots = [frame.json for frame in told if frame.event == "job"]
    assert snapshots[-1]["state"] == "succeeded"
    assert not any(frame.id for frame in told if frame.event == "job")
    assert "secret" not in str(told)


def test_progress_shows_as_snapshots_without_moving_the_place(
    url: str, ledger: Ledger, job: Job
) -> None:
    attempt = claim(ledger, job)
    child = ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU, parent_id=job.id, key="a")
    ledger.wait_for_children(job.id, attempt)
    with listening(f"{url}/jobs/{job.id}/events?after=100000") as frames:
        before = next(frames).json["fraction"]
        ledger.claim(child.id, "w", 60)
        ledger.progress(child.id, 1, stage="train", fraction=0.5)
        frame = next(each for each in frames if each.json.get("fraction", 0) > before)
        assert (frame.event, frame.id) == ("job", "")
        assert 0.4 < frame.json["fraction"] < 0.6
        ledger.request_cancel(job.id)
        ledger.cancelled(child.id, 1)
        assert list(frames)[-1].event == "cancelled"


def test_a_stream_that_breaks_off_anywhere_goes_on_without_loss_or_repetition(
    url: str, ledger: Ledger, job: Job
) -> None:
    def work() -> None:
        attempt = claim(ledger, job)
        for number in range(40):
            stage = f"stage {number // 2}"
            ledger.progress(job.id, attempt, stage=stage, fraction=number / 40)
            time.sleep(0.01)
        ledger.succeed(job.id, attempt, {})

    rng, told, connections = random.Random(3), list[Frame](), 0
    worker = threading.Thread(target=work)
    worker.start()
    while not told or told[-1].event != "succeeded":
        last = next((frame.id for frame in reversed(told) if frame.id), "0")
        connections += 1
        with listening(f"{url}/jobs/{job.id}/events", **{"Last-Event-ID": last}) as frames:
            for frame, _ in zip(frames, range(rng.randint(1, 6)), strict=False):
                told.append(frame)
    worker.join()
    assert connections > 3
    assert transitions(told) == recorded(ledger, job)


def test_a_client_that_knows_the_end_is_told_to_stop(url: str, ledger: Ledger, job: Job) -> None:
    ledger.request_cancel(job.id)
    last = ledger.events(job.id)[-1].seq
    for known in (last, last + 5, 2**31 - 1):
        answer = HTTP.get(
            f"{url}/jobs/{job.id}/events",
            headers={"Accept": "text/event-stream", "Last-Event-ID": str(known)},
        )
        assert (answer.status_code, answer.content) == (204, b"")


def test_the_end_is_told_even_where_the_events_are_forgotten(
    url: str, ledger: Ledger, job: Job
) -> None:
    ledger.request_cancel(job.id)
    ledger.add_mixture(None, job.id, None, {"a": 1.0}, None, {})  # keeps the job itself
    last = ledger.events(job.id)[-1].seq
    ledger.prune(timedelta(0))
    assert ledger.events(job.id) == []
    with listening(f"{url}/jobs/{job.id}/events") as frames:
        assert [(frame.event, frame.id) for frame in frames] == [
            ("job", ""), ("cancelled", str(last)),
        ]  # fmt: skip


def test_a_quiet_stream_shows_that_it_lives(
    url: str, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.1)
    with listening(f"{url}/jobs/{job.id}/events") as frames:
        quiet = [frame for frame, _ in zip(frames, range(5), strict=False)][2:]
    assert [frame.comments for frame in quiet] == [["ping"]] * 3


@pytest.mark.parametrize("known", ["-1", "x", "1.5", "4294967296", "1 2"])
def test_a_place_that_none_can_be_is_refused(url: str, job: Job, known: str) -> None:
    for options in (
        {"headers": {"Accept": "text/event-stream", "Last-Event-ID": known}},
        {"params": {"after": known}},
    ):
        answer = HTTP.get(f"{url}/jobs/{job.id}/events", **options)  # type: ignore[arg-type]
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"


def test_unknown_jobs_have_no_stream(url: str) -> None:
    headers = {"Accept": "text/event-stream"}
    for place in ("job_none", "job_%00", "%2e%2e", "x" * 300):
        assert HTTP.get(f"{url}/jobs/{place}/events", headers=headers).status_code == 404


def test_streams_are_bounded_and_a_client_that_leaves_frees_its_place(
    url: str, app: FastAPI, job: Job
) -> None:
    here, places = f"{url}/jobs/{job.id}/events", app.state.settings.max_streams
    with ExitStack() as open_:
        for _ in range(places):
            next(open_.enter_context(listening(here)))
        refused = HTTP.get(here, headers={"Accept": "text/event-stream"})
        assert refused.status_code == 503
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.headers["Retry-After"]
        assert refused.json()["type"].endswith("too-many-streams")
        # What isn't a stream is answered, and a wait is only a preference.
        began = time.monotonic()
        assert HTTP.get(f"{url}/jobs/{job.id}?wait=5").status_code == 200
        assert time.monotonic() - began < 2
    left = time.monotonic()
    until(lambda: app.state.watcher.taken == 0)
    assert time.monotonic() - left < 2
    with listening(here) as frames:
        assert next(frames).event == "job"


def test_many_idle_streams_cost_two_queries_a_tick(
    url: str, app: FastAPI, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU) for _ in range(25)]
    asked: list[str] = []

    def ask(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.extend([statement] if statement.startswith("SELECT") else [])

    with ExitStack() as open_:
        for each in jobs * 2:
            next(open_.enter_context(listening(f"{url}/jobs/{each.id}/events")))
        time.sleep(0.5)
        event.listen(ledger._db._readers, "before_cursor_execute", ask)
        time.sleep(1.0)
        event.remove(ledger._db._readers, "before_cursor_execute", ask)
    ticks = 1.0 / watching.TICK_SECONDS
    assert 2 <= len(asked) <= 2 * (ticks + 2)
    assert all("jobs" in statement for statement in asked)


def test_a_stream_outlives_a_ledger_that_is_away(
    url: str, app: FastAPI, ledger: Ledger, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = threading.Event()

    def unless_away(read: Any) -> Any:
        def reading(*about: Any) -> Any:
            if away.is_set():
                raise OperationalError("SELECT", {}, Exception("gone"))
            return read(*about)

        return reading

    watcher = app.state.watcher
    with listening(f"{url}/jobs/{job.id}/events") as frames:
        assert [next(frames).event, next(frames).event] == ["job", "submitted"]
        monkeypatch.setattr(watcher, "_versions", unless_away(watcher._versions))
        for batches in (watcher.views._jobs, watcher.views._events):
            monkeypatch.setattr(batches, "_read", unless_away(batches._read))
        away.set()
        attempt = claim(ledger, job)
        ledger.succeed(job.id, attempt, {})
        time.sleep(0.3)
        assert HTTP.get(f"{url}/jobs/{job.id}").status_code == 503
        away.clear()
        assert [frame.event for frame in frames if frame.id] == ["started", "succeeded"]


def test_events_come_in_pages_too(url: str, ledger: Ledger, job: Job) -> None:
    attempt = claim(ledger, job)
    for number in range(5):
        ledger.progress(job.id, attempt, stage=str(number), fraction=0.1)
    found, after, more = [], 0, True
    while more:
        page = HTTP.get(f"{url}/jobs/{job.id}/events?after={after}&page_size=2").json()
        assert len(page["events"]) <= 2
        found += page["events"]
        after, more = page["next_after"], page["more"]
    assert [(each["event"], each["seq"]) for each in found] == recorded(ledger, job)
    again = HTTP.get(f"{url}/jobs/{job.id}/events?after={after}").json()
    assert again == {"events": [], "next_after": after, "more": False}


def test_whoever_takes_json_as_gladly_gets_a_page(url: str, job: Job) -> None:
    for accept, kind in {
        "application/json, text/event-stream": "application/json",
        "text/event-stream;q=0.5, application/json": "application/json",
        "text/event-stream, */*;q=0.1": "text/event-stream",
        "*/*": "application/json",
    }.items():
        with HTTP.stream("GET", f"{url}/jobs/{job.id}/events", headers={"Accept": accept}) as a:
            assert a.headers["content-type"].partition(";")[0] == kind


def test_a_server_that_stops_lets_go_of_its_streams(tmp_path: Path) -> None:
    app = create_app(Settings(home=tmp_path, broker_url="redis://127.0.0.1:1/0"))
    with served(app, app.state.settings) as url:
        job = app.state.resources.ledger().submit(JobKind.TRAIN, {}, queue=Queue.GPU)
        stream = HTTP.stream(
            "GET", f"{url}/jobs/{job.id}/events", headers={"Accept": "text/event-stream"}
        )
        answer = stream.__enter__()
        assert next(frames_of(answer.iter_lines())).json["state"] == JobState.QUEUED
        began = time.monotonic()
    assert time.monotonic() - began < 10
    answer.close()
