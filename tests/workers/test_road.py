"""The whole road through the real service: HTTP, broker, workers, ledger, training, kill -9."""

import html
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.progress import Progress

from cli import demo_report
from cli.client import Client
from cli.demo import Bars, Road
from cli.up import Stack
from mixlab import report
from mixlab.recipes import Recipe
from tests.workers.conftest import processes, until
from tests.workers.texts import write_domains

pytestmark = [pytest.mark.service, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    write_domains(folder)
    return folder


@pytest.fixture(scope="module")
def client(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    before = dict(os.environ)
    os.environ.update({"MIXLAB_LEASE_SECONDS": "3", "MIXLAB_SWEEP_SECONDS": "0.5"})
    home = tmp_path_factory.mktemp("home")
    try:
        with Stack(home, data_roots=[texts]) as stack, Client(stack.base_url) as found:
            yield found
    finally:
        os.environ.clear()
        os.environ.update(before)


def _kill_a_training() -> bool:
    """SIGKILL a runner that trains, as the kernel does when memory is short."""
    trainers = list(processes("workers.runner job_"))
    if trainers:
        os.kill(trainers[-1], signal.SIGKILL)
    return bool(trainers)


def test_from_text_to_a_mixture_and_a_run_on_it(client: Client, texts: Path) -> None:
    paths = {path.stem: {"paths": [str(path)]} for path in sorted(texts.glob("*.jsonl"))}
    corpus = client.post("/corpora", {"name": "road", "domains": paths, "vocabulary": 400})
    job = client.post(
        "/mixtures/fit",
        {
            "corpus_id": corpus["id"],
            "recipe": "proxy_smoke",
            "budget_tokens": 61_440,
            "constraints": {"upper": {"code": 0.5}, "max_epochs": 4},
            "design": {"count": 5, "floor": 0.1, "seed": 0, "repeated_seeds": 1},
        },
    )
    until(lambda: client.get(f"/jobs/{job['id']}")["state"] == "waiting")
    until(_kill_a_training)
    mixture = client.result(job["id"])
    _check_mixture(client, mixture, corpus["id"])
    _check_solving_again(client, mixture)
    _check_training(client, mixture)


def _check_mixture(client: Client, mixture: dict[str, Any], corpus_id: str) -> None:
    assert sum(mixture["proportions"].values()) == pytest.approx(1, abs=1e-12)
    assert mixture["proportions"]["code"] <= 0.5 + 1e-12
    report = mixture["report"]
    assert {run["state"] for run in report["proxy_runs"]} == {"used"}
    assert set(report["references"]) == {"natural", "uniform", "conditional_entropy"}
    tokens = client.get(f"/corpora/{corpus_id}")["tokens"]
    total = sum(counts["train_tokens"] for counts in tokens.values())
    natural = report["references"]["natural"]["proportions"]
    assert natural["code"] == pytest.approx(tokens["code"]["train_tokens"] / total)
    solved = sum(report["predicted_nats"].values())
    others = [sum(found["predicted_nats"].values()) for found in report["references"].values()]
    feasible = [r["proportions"]["code"] <= 0.5 for r in report["references"].values()]
    assert all(solved <= loss + 1e-9 for loss, ok in zip(others, feasible, strict=True) if ok)


def _check_solving_again(client: Client, mixture: dict[str, Any]) -> None:
    again = client.post(
        "/mixtures/solve",
        {"mixture_id": mixture["id"], "constraints": {"lower": {"tables": 0.6}}},
    )
    assert again["proportions"]["tables"] >= 0.6 - 1e-12
    assert again["parent_id"] == mixture["id"]


def _check_training(client: Client, mixture: dict[str, Any]) -> None:
    body = {"mixture_id": mixture["id"], "recipe": "proxy_smoke", "steps": 80}
    run = client.result(client.post("/trainings", body)["id"])
    recipe = Recipe.from_dict(run["recipe"])
    assert [seen["step"] for seen in run["observations"]] == [20, 40, 60, 80]
    for domain, share in mixture["proportions"].items():
        consumed = sum(part["tokens"][domain] for part in run["consumed"])
        assert abs(consumed - share * recipe.tokens) <= recipe.tokens_per_step


def test_the_demo_walks_the_same_road_and_reports_it(client: Client, texts: Path) -> None:
    domains = {path.stem: path for path in sorted(texts.glob("*.jsonl"))}
    with Progress(disable=True) as progress:
        road = Road(client, Bars(progress), "proxy_smoke", "proxy_smoke", 5)
        found = demo_report.build(road.walk("demo", domains))
    assert set(found) >= {
        "domains", "mixtures", "proxy_runs", "observations", "fit", "long_run", "target_runs",
        "seconds",
    }  # fmt: skip
    assert set(found["mixtures"]) == {"natural", "uniform", "conditional_entropy", "solved"}
    assert len(found["observations"]) == len(found["proxy_runs"]) * 4
    assert found["fit"]["law"] == "auto"
    assert found["fit"]["domains"]["code"]["law"] in found["fit"]["domains"]["code"]["reason"]
    assert found["answer"]["regret"]["sampling_regret_nats"] >= 0
    targets = found["target_runs"]
    assert targets["solved"]["measured_gain_nats"] == pytest.approx(
        targets["natural"]["measured_nats"] - targets["solved"]["measured_nats"]
    )
    assert set(found["seconds"]) >= {
        "tokenise",
        "entropy",
        "proxy_runs",
        "fit",
        "long_run",
        "total",
    }
    page = report.html(json.loads(json.dumps(found)))
    assert report.verdict(found) in html.unescape(page)
