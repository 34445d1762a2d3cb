"""An application with a secret beside its data, and an attacker with or without a key."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.app import create_app
from api.settings import Settings
from mixlab.ledger import Ledger
from mixlab.ledger.records import Scope

SECRET = "s3cret-of-the-host"
HERE, ELSEWHERE = ("127.0.0.1", 1), ("203.0.113.7", 1)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The one folder that may be read; a secret lies beside it, and behind a link in it."""
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text(SECRET)
    (folder / "a.jsonl").write_text('{"text": "one two"}\n' * 3)
    (folder / "b.jsonl").write_text('{"text": "three four"}\n' * 3)
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    return folder


@pytest.fixture(scope="session")
def fresh_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy, since migrating takes most of an application's start."""
    file = tmp_path_factory.mktemp("fresh") / "ledger.sqlite"
    Ledger.open(f"sqlite:///{file}").close()
    return file


@pytest.fixture
def settings(tmp_path: Path, data: Path, fresh_ledger: Path) -> Settings:
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(fresh_ledger, home / "ledger.sqlite")
    return Settings(
        home=home,
        broker_url="redis://:hunter2@127.0.0.1:1/0",
        data_roots=[data],
        allowed_hosts=["testserver"],
        key_cache_seconds=0,
    )


@pytest.fixture
def app(settings: Settings) -> Iterator[FastAPI]:
    made = create_app(settings)
    with TestClient(made, client=HERE):  # opens and closes it
        yield made


@pytest.fixture
def ledger(app: FastAPI) -> Ledger:
    found: Ledger = app.state.resources.ledger()
    return found


@pytest.fixture
def with_key(app: FastAPI, ledger: Ledger) -> Callable[..., TestClient]:
    """A client from elsewhere with a new key of those scopes, else of read and write."""

    def made(*scopes: Scope) -> TestClient:
        _, token = ledger.keys.create("k", scopes or (Scope.READ, Scope.WRITE))
        headers = {"Authorization": f"Bearer {token}"}
        return TestClient(app, client=ELSEWHERE, headers=headers, raise_server_exceptions=False)

    return made


@pytest.fixture
def user(with_key: Callable[..., TestClient]) -> TestClient:
    """Somebody with a key, who tries what the key doesn't allow."""
    return with_key()


@pytest.fixture
def stranger(app: FastAPI, ledger: Ledger) -> TestClient:
    """Somebody without a key, at a service that has keys."""
    ledger.keys.create("k", (Scope.READ,))
    return TestClient(app, client=ELSEWHERE, raise_server_exceptions=False)


def corpus(*paths: Any, **more: Any) -> dict[str, Any]:
    """The body of a corpus whose first domain lies there."""
    return {
        "name": "c",
        "domains": {"x": {"paths": list(paths)}, "y": {"paths": list(paths)}},
    } | more
