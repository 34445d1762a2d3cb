from pathlib import Path

from fastapi.testclient import TestClient

from api.app import create_app
from api.settings import Settings


def test_a_process_that_answers_is_alive(client: TestClient) -> None:
    assert client.get("/livez").json() == {"status": "ok"}


def test_without_a_broker_the_service_is_degraded_but_ready(client: TestClient) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["status"] == "degraded"
    assert answer.json()["checks"]["ledger"]["ok"] is True
    assert answer.json()["checks"]["broker"]["ok"] is False


def test_without_a_ledger_the_service_starts_says_so_and_recovers(tmp_path: Path) -> None:
    blocked = tmp_path / "folder"
    blocked.write_text("a file where the ledger's folder should be")
    settings = Settings(
        home=tmp_path,
        database_url=f"sqlite:///{blocked}/ledger.sqlite",
        broker_url="redis://:hunter2@127.0.0.1:1/0",
        allowed_hosts=["testserver"],
    )
    with TestClient(
        create_app(settings), client=("127.0.0.1", 1), raise_server_exceptions=False
    ) as client:
        assert client.get("/livez").status_code == 200
        answer = client.get("/readyz")
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["checks"]["ledger"]["ok"] is False
        assert "hunter2" not in answer.text
        asked = client.get("/jobs")
        assert asked.status_code == 503
        assert asked.headers["content-type"] == "application/problem+json"
        blocked.unlink()
        assert client.get("/readyz").status_code == 200
        assert client.get("/jobs").json()["jobs"] == []
