"""A real application over a real SQLite ledger; the broker is a port that nobody listens on."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.app import create_app
from api.settings import Settings
from mixlab.fitting import Fit, fit
from mixlab.laws import BIMIX
from mixlab.ledger import Ledger
from mixlab.ledger.records import MixtureRecord
from mixlab.mixture import Mixture
from mixlab.runs import Observation, Observations
from tests.api.declared import DeclaredClient

NO_BROKER = "redis://127.0.0.1:1/0"
DOMAINS = ("code", "legal", "talk")
TRUTH = {
    "code": (6.0, 0.10, 0.4, 1.4),
    "legal": (8.0, 0.15, 0.35, 1.9),
    "talk": (7.0, 0.2, 0.3, 2.1),
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in DOMAINS:
        (folder / f"{name}.jsonl").write_text('{"text": "one two three"}\n' * 3)
    return folder


@pytest.fixture
def settings(tmp_path: Path, data: Path) -> Settings:
    return Settings(
        home=tmp_path / "home",
        broker_url=NO_BROKER,
        data_roots=[data],
        allowed_hosts=["testserver"],
        max_body_bytes=1_000_000,
    )


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings)


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with DeclaredClient(app) as running:
        yield running


@pytest.fixture
def ledger(client: TestClient, app: FastAPI) -> Ledger:
    found: Ledger = app.state.resources.ledger()
    return found


@pytest.fixture
def corpus_body(data: Path) -> dict[str, Any]:
    domains = {name: {"paths": [str(data / f"{name}.jsonl")]} for name in DOMAINS}
    return {"name": "mine", "domains": domains}


@pytest.fixture
def corpus_id(client: TestClient, corpus_body: dict[str, Any]) -> str:
    answer = client.post("/corpora", json=corpus_body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


@pytest.fixture(scope="session")
def observation_rows() -> list[dict[str, Any]]:
    """Noiseless BiMix losses of ten mixtures at four steps, as rows of a wide table."""
    rng = np.random.default_rng(7)
    rows = []
    for run, shares in enumerate(rng.dirichlet(np.ones(3) * 3, size=10)):
        for step in (100, 200, 400, 800):
            row: dict[str, Any] = {"run": f"r{run}", "step": step, "tokens": step * 4096}
            for name, share in zip(DOMAINS, shares, strict=True):
                scale, alpha, beta, floor = TRUTH[name]
                row[f"mixture.{name}"] = float(share)
                row[f"loss.{name}"] = float(share**-alpha * (scale * step**-beta + floor))
            rows.append(row)
    return rows


@pytest.fixture(scope="session")
def a_fit(observation_rows: list[dict[str, Any]]) -> Fit:
    rows = [
        Observation(
            run=row["run"],
            mixture=Mixture.normalised({name: row[f"mixture.{name}"] for name in DOMAINS}),
            step=row["step"],
            tokens=row["tokens"],
            losses_nats={name: row[f"loss.{name}"] for name in DOMAINS},
        )
        for row in observation_rows
    ]
    return fit(BIMIX, Observations.of(rows))


@pytest.fixture
def fitted(ledger: Ledger, a_fit: Fit) -> Callable[..., MixtureRecord]:
    """Puts a fitted mixture into the ledger, as the fit job does."""

    def add(corpus_id: str | None = None, **report: Any) -> MixtureRecord:
        problem = {
            "objective": {"weights": None},
            "constraints": {"lower": {}, "upper": {}, "max_epochs": 4.0},
            "budget_tokens": 40_960_000,
            "tokens_per_step": 4096,
            "tokens_available": dict.fromkeys(DOMAINS, 10**8),
            "step": 10_000.0,
            **report,
        }
        shares = dict.fromkeys(DOMAINS, 1 / 3)
        return ledger.add_mixture(corpus_id, None, None, shares, a_fit.to_dict(), problem)

    return add
