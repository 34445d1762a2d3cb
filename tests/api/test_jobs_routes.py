from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event

from api.jobs.progress import progress_of
from mixlab.ledger import Ledger
from mixlab.ledger.records import Job, JobKind, JobState, Queue


@pytest.fixture
def job(ledger: Ledger) -> Job:
    return ledger.submit(JobKind.FIT_MIXTURE, {}, queue=Queue.CPU)


def running(ledger: Ledger, job: Job) -> Job:
    claimed = ledger.claim(job.id, "worker-1", 60)
    assert claimed is not None
    return claimed


def get(client: TestClient, job: Job) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/jobs/{job.id}").json()
    return found


def test_a_job_is_followed_to_its_result(client: TestClient, ledger: Ledger, job: Job) -> None:
    answer = client.get(f"/jobs/{job.id}")
    assert (answer.json()["state"], answer.json()["attempt"]) == ("queued", 0)
    assert int(answer.headers["Retry-After"]) >= 1
    claimed = running(ledger, job)
    ledger.progress(job.id, claimed.attempt, stage="fit", fraction=0.25, eta_seconds=12.0)
    found = get(client, job)
    assert (found["state"], found["stage"], found["fraction"]) == ("running", "fit", 0.25)
    assert (found["eta_seconds"], found["attempt"]) == (12.0, 1)
    ledger.succeed(job.id, claimed.attempt, {"href": "/mixtures/mix_1"})
    answer = client.get(f"/jobs/{job.id}")
    assert "Retry-After" not in answer.headers
    assert answer.json()["result"]["href"] == "/mixtures/mix_1"
    assert answer.json()["links"]["result"] == "/mixtures/mix_1"
    assert answer.json()["finished_at"] is not None
    assert "cancel" not in answer.json()["links"]


def test_a_failed_job_tells_why(client: TestClient, ledger: Ledger, job: Job) -> None:
    claimed = running(ledger, job)
    error = {"type": "too-few-mixtures", "title": "Too few", "detail": "3 of 4"}
    ledger.fail(job.id, claimed.attempt, error)
    assert get(client, job)["error"] == {**error, "type": "urn:mixlab:error:too-few-mixtures"}


def test_an_unchanged_job_is_304(client: TestClient, ledger: Ledger, job: Job) -> None:
    tag = client.get(f"/jobs/{job.id}").headers["ETag"]
    same = client.get(f"/jobs/{job.id}", headers={"If-None-Match": tag})
    assert (same.status_code, same.content) == (304, b"")
    assert "Retry-After" in same.headers
    claimed = running(ledger, job)
    changed = client.get(f"/jobs/{job.id}", headers={"If-None-Match": tag})
    assert changed.status_code == 200
    child = ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU, parent_id=job.id, key="a")
    ledger.wait_for_children(job.id, claimed.attempt)
    tag = client.get(f"/jobs/{job.id}").headers["ETag"]
    running(ledger, child)
    ledger.progress(child.id, 1, stage="train", fraction=0.5)
    changed = client.get(f"/jobs/{job.id}", headers={"If-None-Match": tag})
    assert changed.status_code == 200, "a child's progress shows in its parent"


def test_a_waiting_job_counts_its_childrens_progress(
    client: TestClient, ledger: Ledger, job: Job
) -> None:
    claimed = running(ledger, job)
    children = [
        ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU, parent_id=job.id, key=str(number))
        for number in range(4)
    ]
    ledger.wait_for_children(job.id, claimed.attempt)
    before = get(client, job)["fraction"]
    first = running(ledger, children[0])
    ledger.progress(first.id, first.attempt, stage="train", fraction=0.5)
    middle = get(client, job)["fraction"]
    ledger.succeed(first.id, first.attempt, {})
    after = get(client, job)["fraction"]
    assert 0.0 < before < middle < after < 1.0
    listed = client.get("/jobs", params={"state": "waiting"}).json()["jobs"]
    assert [entry["fraction"] for entry in listed] == [after]
    family = client.get(f"/jobs/{job.id}/children").json()["jobs"]
    assert [entry["id"] for entry in family] == [child.id for child in reversed(children)]
    assert {entry["parent_id"] for entry in family} == {job.id}


def test_the_time_left_is_the_childrens_work_left_at_their_pace(ledger: Ledger, job: Job) -> None:
    claimed = running(ledger, job)
    for number in range(4):
        ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU, parent_id=job.id, key=str(number))
    ledger.wait_for_children(job.id, claimed.attempt)
    first = running(ledger, ledger.children(job.id)[0])
    ledger.progress(first.id, 1, stage="train", fraction=0.5)
    children = ledger.children(job.id)
    assert children[0].started_at is not None
    now = children[0].started_at.astimezone(UTC) + timedelta(seconds=10)
    # Half a run took 10 s and one worker is at it: 3.5 runs are left.
    assert progress_of(ledger.job(job.id), children, now=now).eta_seconds == pytest.approx(70)


def test_cancelling_a_queued_job_ends_it_and_again_changes_nothing(
    client: TestClient, job: Job
) -> None:
    first = client.post(f"/jobs/{job.id}/cancel")
    assert (first.status_code, first.json()["state"]) == (200, "cancelled")
    again = client.post(f"/jobs/{job.id}/cancel")
    assert (again.status_code, again.json()) == (200, first.json())


def test_cancelling_a_running_job_asks_its_worker(
    client: TestClient, ledger: Ledger, job: Job
) -> None:
    running(ledger, job)
    for _ in range(2):
        answer = client.post(f"/jobs/{job.id}/cancel")
        assert (answer.status_code, answer.json()["state"]) == (202, "running")
        assert answer.json()["cancel_requested_at"] is not None
    ledger.cancelled(job.id, 1)
    assert client.post(f"/jobs/{job.id}/cancel").status_code == 200


def test_a_job_that_is_over_stays_as_it_ended(client: TestClient, ledger: Ledger, job: Job) -> None:
    running(ledger, job)
    ledger.succeed(job.id, 1, {"href": "/x"})
    answer = client.post(f"/jobs/{job.id}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (200, "succeeded")


def test_unknown_jobs_are_404(client: TestClient) -> None:
    for answer in (
        client.get("/jobs/job_none"),
        client.post("/jobs/job_none/cancel"),
        client.get("/jobs/job_none/children"),
        client.get("/jobs", params={"parent": "job_none"}),
    ):
        assert answer.status_code == 404
        assert answer.json()["type"] == "urn:mixlab:error:unknown-job"


def test_lists_are_filtered_and_come_in_pages(client: TestClient, ledger: Ledger) -> None:
    parent = ledger.submit(JobKind.FIT_MIXTURE, {}, queue=Queue.CPU)
    children = [
        ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU, parent_id=parent.id, key=str(number))
        for number in range(5)
    ]
    ledger.request_cancel(children[0].id)

    def ids(**query: str) -> list[str]:
        found, token = [], ""
        while True:
            answer = client.get("/jobs", params={**query, "page_size": 2, "page_token": token})
            page = answer.json()
            assert len(page["jobs"]) <= 2
            found += [entry["id"] for entry in page["jobs"]]
            token = page["next_page_token"]
            if not token:
                return found

    newest_first = [child.id for child in reversed(children)]
    assert ids() == [*newest_first, parent.id]
    assert ids(kind="train") == ids(parent=parent.id) == newest_first
    assert ids(state="cancelled") == ids(parent=parent.id, state="cancelled") == [children[0].id]
    assert ids(parent=parent.id, kind="fit_mixture") == []


def test_a_page_token_belongs_to_its_list(client: TestClient, ledger: Ledger) -> None:
    for _ in range(3):
        ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)
    token = client.get("/jobs", params={"page_size": 1}).json()["next_page_token"]
    other = client.get("/jobs", params={"kind": "train", "page_token": token})
    assert other.status_code == 422
    assert other.json()["errors"][0]["parameter"] == "page_token"
    for broken in ("x", "####", "bnVsbA==", "W10=", "é"):
        assert client.get("/jobs", params={"page_token": broken}).status_code == 422
    assert client.get("/jobs", params={"page_size": -1}).status_code == 422
    assert client.get("/jobs", params={"page_size": 10**6}).status_code == 200
    assert client.get("/jobs", params={"state": "sleeping"}).status_code == 422


def test_progress_never_passes_its_bounds() -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    job = Job(
        id="job_1", kind=JobKind.TRAIN, queue=Queue.GPU, state=JobState.WAITING, payload={},
        parent_id=None, key=None, stage=None, fraction=0.3, eta_seconds=5.0, attempt=1, failures=0,
        worker=None, lease_until=None, cancel_requested_at=None, error=None, result=None, version=1,
        created_at=now, started_at=now, finished_at=None, owner=None, priority=0, not_before=None,
        pause_requested_at=None,
    )  # fmt: skip
    assert progress_of(job, [], now=now).fraction == 0.3


def test_a_waiting_job_adds_what_its_children_do_to_what_it_did(
    client: TestClient, ledger: Ledger
) -> None:
    """Tokenising came before the wait; groups of runs count as single ones do, scores don't."""
    for kind, child_kind, own, expected in (
        (JobKind.MEASURE_CORPUS, JobKind.MEASURE_ENTROPY, 0.85, 0.85 + 0.15 / 2),
        (JobKind.FIT_MIXTURE, JobKind.TRAIN_PROXIES, 0.0, 0.10 + 0.87 / 2),
        (JobKind.TRAIN, JobKind.SCORE, 0.6, 0.6),
    ):
        job = ledger.submit(kind, {}, queue=Queue.CPU)
        ledger.claim(job.id, "w", 30)
        ledger.progress(job.id, 1, stage="waits", fraction=own)
        child = ledger.submit(child_kind, {}, queue=Queue.GPU, parent_id=job.id, key="a")
        ledger.claim(child.id, "w", 30)
        ledger.progress(child.id, 1, stage="works", fraction=0.5)
        ledger.wait_for_children(job.id, 1)
        seen = client.get(f"/jobs/{job.id}").json()
        assert seen["fraction"] == pytest.approx(expected)


def test_a_queued_job_is_held_and_let_go(client: TestClient, ledger: Ledger, job: Job) -> None:
    assert "pause" in get(client, job)["links"]
    for _ in range(2):
        answer = client.post(f"/jobs/{job.id}/pause")
        assert (answer.status_code, answer.json()["state"]) == (200, "paused")
        assert answer.json()["pause_requested_at"] is not None
    links = get(client, job)["links"]
    assert (links["resume"], "pause" in links) == (f"/jobs/{job.id}/resume", False)
    for _ in range(2):
        answer = client.post(f"/jobs/{job.id}/resume")
        assert (answer.status_code, answer.json()["state"]) == (200, "queued")
        assert answer.json()["pause_requested_at"] is None


def test_a_running_job_is_paused_once_its_worker_has_stopped(
    client: TestClient, ledger: Ledger, job: Job
) -> None:
    running(ledger, job)
    for _ in range(2):
        answer = client.post(f"/jobs/{job.id}/pause")
        assert (answer.status_code, answer.json()["state"]) == (202, "running")
        assert answer.headers["Retry-After"]
    ledger.give_back(job.id, 1, "A pause was asked for.", None)
    assert client.post(f"/jobs/{job.id}/pause").status_code == 200
    assert client.post(f"/jobs/{job.id}/resume").json()["state"] == "queued"


def test_an_ended_job_is_neither_paused_nor_resumed(client: TestClient, job: Job) -> None:
    client.post(f"/jobs/{job.id}/cancel")
    for move in ("pause", "resume"):
        answer = client.post(f"/jobs/{job.id}/{move}")
        assert (answer.status_code, answer.json()["type"]) == (409, "urn:mixlab:error:conflict")
        assert move not in get(client, job)["links"]
        assert client.post(f"/jobs/job_none/{move}").status_code == 404


def test_a_list_takes_two_reads_however_many_parents_wait(
    client: TestClient, ledger: Ledger
) -> None:
    for number in range(12):
        parent = ledger.submit(JobKind.FIT_MIXTURE, {"n": number}, queue=Queue.CPU)
        claimed = running(ledger, parent)
        for key in "abc":
            ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU, parent_id=parent.id, key=key)
        ledger.wait_for_children(parent.id, claimed.attempt)
    asked: list[str] = []

    def ask(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.extend([statement] if statement.startswith("SELECT") else [])

    event.listen(ledger._db._readers, "before_cursor_execute", ask)
    listed = client.get("/jobs?kind=fit_mixture").json()["jobs"]
    event.remove(ledger._db._readers, "before_cursor_execute", ask)
    assert [one["fraction"] for one in listed] == [0.1] * 12
    assert len([statement for statement in asked if "jobs" in statement]) == 3
    assert not any("jobs.payload" in statement for statement in asked)


def test_children_come_in_pages(client: TestClient, ledger: Ledger, job: Job) -> None:
    made = [
        ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU, parent_id=job.id, key=str(number)).id
        for number in range(5)
    ]
    found, token = [], ""
    while True:
        query = {"page_size": 2, "page_token": token}
        page = client.get(f"/jobs/{job.id}/children", params=query).json()
        found += [one["id"] for one in page["jobs"]]
        token = page["next_page_token"]
        if not token:
            break
    assert found == [*reversed(made)]
