"""Rounds through the real service: HTTP, broker, workers, ledger, training, kill -9."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cli.client import Client
from cli.up import Stack
from mixlab.corpora.drawn import DRAWN_FILE
from mixlab.rounds.plan import Rounds
from mixlab.rounds.running import run_rounds
from mixlab.training.spec import RunSpec
from tests.workers.conftest import processes, until
from tests.workers.texts import write_domains
from workers.contract import SharedSettings

pytestmark = [pytest.mark.service, pytest.mark.slow, pytest.mark.timeout(300)]

SHARES = {"code": 0.5, "documentation": 0.25, "tables": 0.25}
SETTINGS = {"MIXLAB_LEASE_SECONDS": "3", "MIXLAB_SWEEP_SECONDS": "0.5", "MIXLAB_THREADS": "1"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_domains(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def client(texts: dict[str, Path], home: Path) -> Iterator[Client]:
    before = dict(os.environ)
    os.environ.update(SETTINGS)
    try:
        with (
            Stack(home, data_roots=[texts["code"].parent]) as stack,
            Client(stack.base_url) as found,
        ):
            yield found
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def corpus(client: Client, texts: dict[str, Path]) -> dict[str, Any]:
    domains = {name: {"paths": [str(path)]} for name, path in texts.items()}
    made = client.post("/corpora", {"name": "road", "domains": domains, "vocabulary": 400})
    client.result(client.post(f"/corpora/{made['id']}/entropy", {})["id"])
    return client.get(f"/corpora/{made['id']}")


def trained(client: Client, corpus: dict[str, Any], **more: Any) -> dict[str, Any]:
    body = {"corpus_id": corpus["id"], "proportions": SHARES, "recipe": "proxy_smoke", **more}
    return client.post("/trainings", body)


def test_rounds_whose_scoring_was_killed_draw_what_one_process_draws(
    client: Client, corpus: dict[str, Any], home: Path, tmp_path: Path
) -> None:
    job = trained(client, corpus, steps=60, rounds={"count": 2})

    def kill_one() -> bool:
        children = client.get(f"/jobs/{job['id']}/children")["jobs"]
        running = [one["id"] for one in children if one["kind"] == "score"]
        found = [pid for one in running for pid in processes(f"workers.runner {one}")]
        for pid in found[:1]:
            os.kill(pid, signal.SIGKILL)
        return bool(found)

    until(kill_one, 120.0)
    run = client.result(job["id"])
    children = client.get(f"/jobs/{job['id']}/children")["jobs"]
    assert {one["kind"] for one in children} == {"score"}
    assert max(one["attempt"] for one in children) == 2
    folder = SharedSettings(home=home).run_folder(run["id"])
    first = RunSpec.read(folder / "round-1" / "spec.json")
    whole = replace(first, recipe=first.recipe.lasting(60), folder=tmp_path / "alone")
    run_rounds(whole, Rounds(), emit=lambda _: None, stop=lambda: False)
    alone = (tmp_path / "alone" / DRAWN_FILE).read_bytes()
    assert (folder / DRAWN_FILE).read_bytes() == alone
