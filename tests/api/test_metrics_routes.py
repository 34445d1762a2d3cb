"""What Prometheus reads: true, bounded, for admins alone, and there while the ledger is away."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from api.app import create_app
from api.metrics import collector
from api.settings import Settings
from cli.broker import Broker
from mixlab.ledger import Ledger
from mixlab.ledger.records import JobKind, Queue, RunRole, Scope
from tests.api.declared import DeclaredClient

Sample = tuple[str, frozenset[tuple[str, str]]]


def scraped(client: TestClient, **headers: str) -> dict[Sample, float]:
    answer = client.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(found: Mapping[Sample, float], name: str, **labels: Any) -> float:
    return found[name, frozenset((key, str(text)) for key, text in labels.items())]


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "HOLDS_SECONDS", 0.0)


def test_jobs_workers_and_requests_are_told(client: TestClient, ledger: Ledger) -> None:
    job = ledger.of("key_x").submit(JobKind.TRAIN, {}, queue=Queue.GPU)
    ledger.claim(job.id, "a:1", 30)
    ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)
    gpus = (
        {"uuid": "GPU-1", "name": "x", "memory_bytes": None, "busy": True},
        {"uuid": "GPU-2", "name": "x", "memory_bytes": None, "busy": False},
    )
    for worker in ("gpu@a", "gpu@b"):
        ledger.fleet.beat(
            worker, host="a", queue=Queue.GPU, slots=2, version="0", gpus=gpus
        )  # fmt: skip
    assert client.get(f"/jobs/{job.id}").status_code == 200
    found = scraped(client)
    assert value(found, "mixlab_jobs", kind="train", state="running") == 1
    assert value(found, "mixlab_jobs", kind="train", state="queued") == 1
    assert value(found, "mixlab_jobs", kind="fit_mixture", state="failed") == 0
    assert value(found, "mixlab_queue_due_jobs", queue="gpu") == 1
    assert value(found, "mixlab_queue_running_jobs", queue="gpu") == 1
    assert value(found, "mixlab_worker_slots", worker="gpu@a", host="a", queue="gpu") == 2
    age = value(found, "mixlab_worker_heartbeat_age_seconds", worker="gpu@a", host="a", queue="gpu")
    assert 0 <= age < 30
    assert value(found, "mixlab_gpus", host="a") == 2
    assert value(found, "mixlab_gpus_busy", host="a") == 1
    asked = {"method": "GET", "route": "/jobs/{job_id}"}
    assert value(found, "mixlab_http_requests_total", status=200, **asked) == 1
    assert value(found, "mixlab_http_request_duration_seconds_count", **asked) == 1
    assert value(found, "mixlab_ledger_up") == 1
    assert value(found, "mixlab_broker_up") == 0
    assert not [name for name, _ in found if name == "mixlab_queue_messages"]
    assert value(found, "mixlab_home_writable") == 1
    assert value(found, "mixlab_home_free_bytes") > 0


def test_distributions_are_those_of_the_ledger(client: TestClient, ledger: Ledger) -> None:
    job = ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)
    claimed = ledger.claim(job.id, "a:1", 30)
    assert claimed is not None
    ledger.succeed(job.id, claimed.attempt, {})
    found = scraped(client)
    labels = {"kind": "train", "state": "succeeded"}
    assert value(found, "mixlab_job_duration_seconds_bucket", le="+Inf", **labels) == 1
    assert value(found, "mixlab_job_duration_seconds_gcount", **labels) == 1
    assert 0 <= value(found, "mixlab_job_duration_seconds_gsum", **labels) < 10
    assert value(found, "mixlab_job_wait_seconds_gcount", queue="gpu") == 1


def test_losses_are_bounded_in_number(client: TestClient, ledger: Ledger) -> None:
    corpus = ledger.add_corpus("c", {})
    losses = {f"domain-{n:03}": 3.0 for n in range(200)}
    for _ in range(30):
        job = ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)
        ledger.claim(job.id, "a:1", 30)
        run = ledger.add_run(job.id, corpus.id, RunRole.PROXY, {"a": 1.0}, {}, 0, 'a "label"\n')
        seen = {"step": 10, "tokens": 10, "losses_nats": losses}
        ledger.record_observation(run.id, seen)
    told = [labels for (name, labels) in scraped(client) if name == "mixlab_run_loss_nats"]
    assert len(told) == 20 * 16


def test_whatever_is_asked_for_the_routes_are_few(client: TestClient) -> None:
    for n in range(20):
        client.get(f"/no/such/{n}")
        client.get(f"/jobs/job_{n:024x}")
        client.request(f"X{n}", "/jobs")
        client.get("/jobs", headers={"Host": f"evil-{n}.example"})
    routes = {
        (dict(labels)["method"], dict(labels)["route"])
        for name, labels in scraped(client)
        if name == "mixlab_http_requests_total"
    }
    assert {route for _, route in routes} <= {"/jobs", "/jobs/{job_id}", "/metrics", "none"}
    assert {method for method, _ in routes} <= {"GET", "other"}


def test_every_operation_is_counted_under_its_path_in_the_document(client: TestClient) -> None:
    paths = client.app.openapi()["paths"]  # type: ignore[attr-defined]
    for path, operations in paths.items():
        for method in operations:
            client.request(method, re.sub(r"\{\w+\}", f"job_{'0' * 24}", path))
    found = scraped(client)
    routes = {dict(labels)["route"] for name, labels in found if name.startswith("mixlab_http_req")
              and "route" in dict(labels)}  # fmt: skip
    assert routes == set(paths)


def test_what_was_found_holds_for_a_moment(
    client: TestClient, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "HOLDS_SECONDS", 60.0)
    before = scraped(client)
    ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)
    labels = {"kind": "train", "state": "queued"}
    assert value(scraped(client), "mixlab_jobs", **labels) == value(before, "mixlab_jobs", **labels)


def test_everybodys_jobs_are_for_admins(client: TestClient, ledger: Ledger) -> None:
    _, reader = ledger.keys.create("reader", (Scope.READ, Scope.WRITE))
    _, admin = ledger.keys.create("admin", (Scope.ADMIN,))
    assert client.get("/metrics").status_code == 401
    refused = client.get("/metrics", headers={"Authorization": f"Bearer {reader}"})
    assert refused.status_code == 403
    assert "admin" in refused.json()["detail"]
    assert value(scraped(client, Authorization=f"Bearer {admin}"), "mixlab_ledger_up") == 1


def test_a_ledger_that_is_away_is_told(
    app: FastAPI, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.key_cache_seconds = 0.0
    with DeclaredClient(create_app(settings)) as client:
        ledger: Ledger = client.app.state.resources.ledger()  # type: ignore[attr-defined]
        _, token = ledger.keys.create("admin", (Scope.ADMIN,))
        key = {"Authorization": f"Bearer {token}"}
        assert value(scraped(client, **key), "mixlab_ledger_up") == 1
        ledger.close()
        shutil.move(settings.home / "ledger.sqlite", settings.home / "elsewhere")
        (settings.home / "ledger.sqlite").mkdir()
        assert client.get("/jobs", headers=key).status_code == 503
        found = scraped(client, **key)
        assert value(found, "mixlab_ledger_up") == 0
        assert value(found, "mixlab_home_writable") == 1
        assert not [name for name, _ in found if name == "mixlab_jobs"]


def test_a_home_folder_that_is_gone_is_told(
    app: FastAPI, settings: Settings, tmp_path: Path
) -> None:
    elsewhere = settings.model_copy(update={"home": tmp_path / "nowhere"})
    with DeclaredClient(create_app(elsewhere)) as client:
        found = scraped(client)
        assert value(found, "mixlab_home_writable") == 0
        assert not [name for name, _ in found if name == "mixlab_home_free_bytes"]


def test_messages_are_counted_on_the_broker(settings: Settings, tmp_path: Path) -> None:
    broker, log = Broker.prepare(tmp_path / "broker"), tmp_path / "broker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(broker.command, stdout=output, stderr=output)
    try:
        broker.wait(process, log)
        told = settings.model_copy(update={"broker_url": SecretStr(broker.url)})
        with DeclaredClient(create_app(told)) as client:
            resources = client.app.state.resources  # type: ignore[attr-defined]
            ledger: Ledger = resources.ledger()
            for _ in range(3):
                job = ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)
                assert resources.dispatcher.send(job, ledger)
            found = scraped(client)
    finally:
        process.kill()
        process.wait()
    assert value(found, "mixlab_broker_up") == 1
    assert value(found, "mixlab_queue_messages", queue="gpu") == 3
    assert value(found, "mixlab_queue_messages", queue="cpu") == 0
