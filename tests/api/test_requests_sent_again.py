"""Idempotency-Key: the same request again makes nothing again, whatever happened to the first."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError

from api.app import create_app
from api.idempotency import _KEY, KEEP
from cli.broker import free_port
from mixlab.ledger import Ledger
from mixlab.ledger.database import Database
from mixlab.ledger.ids import utcnow
from mixlab.ledger.records import Scope
from tests.api.declared import DeclaredClient
from tests.api.served import until


def post(client: TestClient, path: str, body: Any = None, key: str = "k-1", **more: str) -> Any:
    return client.post(path, json=body, headers={"Idempotency-Key": key, **more})


def slug(answer: Any) -> str:
    return str(answer.json()["type"]).removeprefix("urn:mixlab:error:")


def test_the_same_request_again_gets_the_first_answer(
    client: TestClient, ledger: Ledger, corpus_id: str, corpus_body: dict[str, Any]
) -> None:
    shares = {"corpus_id": corpus_id, "proportions": {"code": 0.5, "legal": 0.5}}
    for path, body in {
        f"/corpora/{corpus_id}/entropy": None,
        "/corpora": corpus_body,
        "/mixtures": shares,
        "/trainings": shares,
        "/mixtures/fit": {"corpus_id": corpus_id, "budget_tokens": 10**6},
    }.items():
        first, again = (post(client, path, body, key=f"of {path}".replace(" ", "-")) for _ in "12")
        assert first.status_code in (201, 202), first.text
        assert "Idempotent-Replayed" not in first.headers
        assert again.headers["Idempotent-Replayed"] == "true"
        assert (again.status_code, again.json()) == (first.status_code, first.json())
        assert again.headers["Location"] == first.headers["Location"]
        assert again.headers.get("Retry-After") == first.headers.get("Retry-After")
    assert len(ledger.jobs()) == 3
    assert len(ledger.corpora()) == 2
    assert len(ledger.mixtures()) == 1


def test_what_is_made_under_a_key_has_an_id_as_any_other(
    client: TestClient, ledger: Ledger, corpus_id: str, corpus_body: dict[str, Any]
) -> None:
    ids = [post(client, "/corpora", corpus_body, key=str(n)).json()["id"] for n in range(3)]
    assert len(set(ids)) == 3
    assert [corpus.id for corpus in ledger.corpora()] == [*reversed(ids), corpus_id]
    assert all(len(each) == len(corpus_id) for each in ids)


def test_another_payload_under_the_key_is_refused(client: TestClient, corpus_id: str) -> None:
    shares = {"corpus_id": corpus_id, "proportions": {"code": 0.5, "legal": 0.5}}
    assert post(client, "/trainings", shares).status_code == 202
    for path, body in (
        ("/trainings", {**shares, "seed": 1}),
        ("/mixtures", shares),
        (f"/corpora/{corpus_id}/entropy", None),
        (f"/corpora/{corpus_id}/entropy?priority=1", None),
    ):
        answer = post(client, path, body)
        assert (answer.status_code, slug(answer)) == (422, "idempotency-key-reused")
    assert len(client.get("/jobs").json()["jobs"]) == 1


def test_an_error_that_stays_is_kept_and_one_that_may_pass_is_not(
    client: TestClient, ledger: Ledger, corpus_id: str, observation_rows: list[dict[str, Any]]
) -> None:
    wrong = {"corpus_id": corpus_id, "budget_tokens": -1}
    first, again = (post(client, "/mixtures/fit", wrong) for _ in range(2))
    assert (first.status_code, again.status_code) == (422, 422)
    assert again.json() == first.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["content-type"] == "application/problem+json"
    body = {"corpus_id": corpus_id, "observations": observation_rows, "budget_tokens": 10**6}
    early = post(client, "/mixtures/fit", body, key="k-2")
    assert (early.status_code, slug(early)) == (409, "not-ready")
    ledger.record_tokens(corpus_id, {d: {"train_tokens": 10**7} for d in ("code", "legal", "talk")})
    later = post(client, "/mixtures/fit", body, key="k-2")
    assert later.status_code == 202, later.text


def test_a_key_must_be_one(client: TestClient, corpus_id: str) -> None:
    path = f"/corpora/{corpus_id}/entropy"
    for key in (
        b"",
        b" ",
        b"two words",
        b"x" * 256,
        b"\xff",
        "ü".encode(),
        b'"open',
        b"a\\b",
        b"\x01",
    ):
        answer = client.post(path, headers={"Idempotency-Key": key})
        assert (answer.status_code, slug(answer)) == (400, "idempotency-key-malformed"), key
    assert client.get("/jobs").json()["jobs"] == []
    quoted = client.post(path, headers={"Idempotency-Key": '"8e03978e-40d5-43dd-bc93"'})
    bare = client.post(path, headers={"Idempotency-Key": "8e03978e-40d5-43dd-bc93"})
    assert (quoted.status_code, bare.json()) == (202, quoted.json())


@settings(max_examples=200)
@given(st.text())
def test_a_key_is_visible_text_in_quotes_or_without(text: str) -> None:
    if _KEY.match(text):
        inner = text.strip('"')
        assert 1 <= len(inner) <= 255
        assert inner.isascii()
        assert inner.isprintable()
        assert " " not in inner


def test_a_service_may_insist_on_keys(app: FastAPI, corpus_body: dict[str, Any]) -> None:
    strict = app.state.settings.model_copy(update={"require_idempotency_key": True})
    with DeclaredClient(create_app(strict)) as client:
        answer = client.post("/corpora", json=corpus_body)
        assert (answer.status_code, slug(answer)) == (400, "idempotency-key-missing")
        assert client.post("/corpora?validate_only=true", json=corpus_body).status_code == 200
        made = post(client, "/corpora", corpus_body)
        assert made.status_code == 201
        # What makes nothing needs none.
        question = {"domains": ["a", "b"], "count": 2}
        assert client.post("/mixtures/design", json=question).status_code == 200


def test_a_request_whose_first_one_is_under_way_is_told_to_wait(
    client: TestClient, ledger: Ledger, corpus_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, begun = threading.Event(), threading.Event()
    submit = Ledger.submit

    def slowly(*about: Any, **more: Any) -> Any:
        begun.set()
        assert go_on.wait(10)
        return submit(*about, **more)

    monkeypatch.setattr(Ledger, "submit", slowly)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, client, f"/corpora/{corpus_id}/entropy")
        assert begun.wait(10)
        second = post(client, f"/corpora/{corpus_id}/entropy")
        go_on.set()
        assert first.result().status_code == 202
    assert (second.status_code, slug(second)) == (409, "idempotency-key-under-way")
    assert second.headers["Retry-After"]
    third = post(client, f"/corpora/{corpus_id}/entropy")
    assert third.json() == first.result().json()


def test_of_many_at_once_one_is_done(client: TestClient, ledger: Ledger, corpus_id: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        path = f"/corpora/{corpus_id}/entropy"
        answers = list(pool.map(lambda _: post(client, path), range(24)))
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 202}) == 1
    assert len(ledger.jobs()) == 1


def test_a_fault_of_the_service_is_not_kept_and_makes_nothing_twice(
    client: TestClient, ledger: Ledger, corpus_id: str, corpus_body: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It is recorded, then the answer fails: the second try finds what the first one made."""
    shares = {"corpus_id": corpus_id, "proportions": {"code": 0.5, "legal": 0.5}}
    for path, body, view, made in (
        ("/trainings", shares, "api.making.JobView.of", ledger.jobs),
        ("/mixtures", shares, "api.mixtures.routes.MixtureView.of", ledger.mixtures),
        ("/corpora", corpus_body, "api.corpora.routes.CorpusView.of", ledger.corpora),
    ):
        with monkeypatch.context() as broken:
            broken.setattr(view, lambda _record: 1 / 0)
            assert post(client, path, body, key=path).status_code == 500
        newest = made()[0].id
        answer = post(client, path, body, key=path)
        assert answer.status_code in (201, 202)
        assert (answer.json()["id"], made()[0].id) == (newest, newest)
    with monkeypatch.context() as away:
        gone = OperationalError("INSERT", {}, Exception("gone"))
        away.setattr(Ledger, "submit", lambda *_a, **_m: (_ for _ in ()).throw(gone))
        assert post(client, "/trainings", shares, key="k-2").status_code == 503
    assert post(client, "/trainings", shares, key="k-2").status_code == 202
    assert len(ledger.jobs()) == 2


def test_a_key_is_its_callers_alone(
    client: TestClient, ledger: Ledger, corpus_body: dict[str, Any]
) -> None:
    tokens = [ledger.keys.create(name, (Scope.READ, Scope.WRITE))[1] for name in ("ann", "bob")]
    answers = [
        post(client, "/corpora", corpus_body, Authorization=f"Bearer {token}") for token in tokens
    ]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json()["id"] != answers[1].json()["id"]


def test_a_key_means_something_new_after_a_day(
    client: TestClient, app: FastAPI, ledger: Ledger, corpus_id: str
) -> None:
    now = utcnow()
    database: Database = ledger._db

    def at(moment: datetime) -> None:
        database.now = lambda: moment  # type: ignore[method-assign]

    path = f"/corpora/{corpus_id}/entropy"
    at(now)
    first = post(client, path)
    at(now + KEEP - timedelta(seconds=1))
    assert post(client, path).json() == first.json()
    at(now + KEEP + timedelta(seconds=1))
    other = post(client, path + "?priority=5")
    assert (other.status_code, other.json()["priority"]) == (202, 5)
    assert other.json()["id"] != first.json()["id"]


CRASHING = """
import os, sys
from mixlab.ledger.requests import Requests
from api.serving import serve
from api.settings import Settings

if sys.argv[1] == "crash":  # the process dies after the job is recorded, before it answers
    Requests.answer = lambda *_: os._exit(9)
else:  # minutes later
    import mixlab.ledger.requests as requests
    from datetime import timedelta
    requests.ABANDONED_AFTER = timedelta(seconds=float(sys.argv[2]))
sys.exit(serve(Settings()))
"""


@pytest.mark.slow
def test_a_process_killed_before_it_answered_leaves_one_job(tmp_path: Path) -> None:
    port = free_port()
    environment = {
        **os.environ, "MIXLAB_HOME": str(tmp_path), "MIXLAB_PORT": str(port),
        "MIXLAB_BROKER_URL": "redis://127.0.0.1:1/0", "MIXLAB_DATA_ROOTS": f'["{tmp_path}"]',
    }  # fmt: skip
    here = f"http://127.0.0.1:{port}"
    (tmp_path / "a.txt").write_text("text")
    domains = {name: {"paths": [str(tmp_path / "a.txt")]} for name in ("a", "b")}
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    corpus = ledger.add_corpus("n", {"domains": domains})
    shares = {"corpus_id": corpus.id, "proportions": {"a": 0.5, "b": 0.5}}

    @contextmanager
    def running(*arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
        with subprocess.Popen([sys.executable, "-c", CRASHING, *arguments], env=environment) as one:
            until(lambda: one.poll() is not None or answers(here), 30)
            yield one
            one.terminate()

    def train() -> httpx.Response:
        return httpx.post(f"{here}/trainings", json=shares, headers={"Idempotency-Key": "once"})

    with running("crash") as process:
        with pytest.raises(httpx.TransportError):
            train()
        assert process.wait(10) == 9
    (job,) = ledger.jobs()
    with running("later", "60"):
        assert train().status_code == 409, "it may be under way"
    with running("later", "0"):
        answer, again = train(), train()
        assert (answer.status_code, answer.json()["id"]) == (202, job.id)
        assert again.json() == answer.json()
    assert [one.id for one in ledger.jobs()] == [job.id]


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez").status_code == 200
    except httpx.TransportError:
        time.sleep(0.05)
        return False
