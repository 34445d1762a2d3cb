"""Readiness says what is wrong, one thing at a time; it is 503 where nothing can be served."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text

from api import disk
from api.app import create_app
from api.health import checks
from api.settings import Settings
from mixlab.ledger import Ledger
from mixlab.ledger.engine import open_engine
from mixlab.ledger.records import Queue
from tests.api.declared import DeclaredClient


def checked(client: TestClient) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = client.get("/readyz").json()["checks"]
    return found


def test_each_thing_that_the_service_stands_on_is_named(client: TestClient) -> None:
    found = checked(client)
    assert set(found) == {"ledger", "migrations", "broker", "workers", "home"}
    assert {name for name, check in found.items() if check["ok"]} == {
        "ledger", "migrations", "home",
    }  # fmt: skip
    assert found["home"]["figures"]["free_bytes"] > 0
    assert client.get("/healthz").json()["checks"].keys() == found.keys()


def test_a_queue_without_a_worker_is_named(client: TestClient, ledger: Ledger) -> None:
    ledger.fleet.beat("cpu@a", host="a-secret-host", queue=Queue.CPU, slots=2, version="0")
    workers = checked(client)["workers"]
    assert (workers["ok"], workers["figures"]) == (False, {"cpu": 1, "gpu": 0})
    assert "gpu" in workers["detail"]
    ledger.fleet.beat("gpu@a", host="a-secret-host", queue=Queue.GPU, slots=2, version="0")
    assert checked(client)["workers"]["ok"]
    assert "secret" not in client.get("/readyz").text


def test_a_worker_that_fell_silent_does_not_count(
    client: TestClient, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.fleet.beat("cpu@a", host="a", queue=Queue.CPU, slots=2, version="0")
    monkeypatch.setattr(checks, "HEARD_WITHIN", checks.HEARD_WITHIN * 0)
    time.sleep(0.01)
    assert checked(client)["workers"]["figures"]["cpu"] == 0


@pytest.mark.parametrize("revision", ["0001", "9999"])
def test_another_schema_stops_the_service_and_is_told_apart(
    client: TestClient, settings: Settings, revision: str
) -> None:
    engine = open_engine(settings.database_url.get_secret_value())
    with engine.begin() as db:
        db.execute(text("UPDATE alembic_version SET version_num = :it"), {"it": revision})
    engine.dispose()
    answer = client.get("/readyz")
    assert answer.status_code == 503
    told = answer.json()["checks"]
    assert (told["ledger"]["ok"], told["migrations"]["ok"]) == (True, False)
    assert revision in answer.json()["detail"]


def test_a_disk_that_fills_degrades_the_service(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "LEAST_FREE_BYTES", 2**62)
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert "MiB are free" in answer.json()["checks"]["home"]["detail"]


def test_a_home_folder_that_takes_no_file_degrades_the_service(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk.tempfile, "TemporaryFile", refuses)
    home = checked(client)["home"]
    assert (home["ok"], home["detail"]) == (False, "The home folder takes no file.")


def test_a_disk_that_never_answers_holds_nobody_up(
    app: FastAPI, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    away, asked = threading.Event(), []

    def hangs(folder: Path) -> None:
        asked.append(folder)
        away.wait(30)

    monkeypatch.setattr(disk, "_space", hangs)
    monkeypatch.setattr(disk, "PATIENCE_SECONDS", 0.05)
    try:
        with DeclaredClient(create_app(settings)) as client:
            began = time.monotonic()
            for _ in range(5):
                assert not checked(client)["home"]["ok"]
            assert time.monotonic() - began < 5
        assert len(asked) == 1  # nobody else is sent after it
    finally:
        away.set()
