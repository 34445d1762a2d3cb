from typing import Any

import pytest
from fastapi.testclient import TestClient

from mixlab.ledger import Ledger
from mixlab.ledger.records import JobKind, Queue, RunRole
from mixlab.mixture import Mixture
from mixlab.recipes import Recipe, target_small
from mixlab.schedules import MixtureSchedule, Stage

SHARES = {"code": 0.2, "legal": 0.3, "talk": 0.5}


def test_a_training_with_proportions_is_a_job_on_the_gpu_queue(
    client: TestClient, ledger: Ledger, corpus_id: str
) -> None:
    body = {"corpus_id": corpus_id, "proportions": SHARES, "steps": 40, "seed": 3, "label": "mine"}
    answer = client.post("/trainings", json=body)
    assert answer.status_code == 202, answer.text
    job = ledger.job(answer.json()["id"])
    assert (job.kind, job.queue) == (JobKind.TRAIN, Queue.GPU)
    assert answer.headers["Location"] == f"/jobs/{job.id}"
    recipe = Recipe.from_dict(dict(job.payload["recipe"]))
    assert recipe == target_small().lasting(40)
    assert {k: v for k, v in job.payload.items() if k != "recipe"} == {
        "corpus_id": corpus_id,
        "mixture": SHARES,
        "schedule": None,
        "mixture_id": None,
        "seed": 3,
        "role": "full",
        "label": "mine",
    }


def test_a_training_of_a_mixture_takes_its_corpus_and_proportions(
    client: TestClient, ledger: Ledger, corpus_id: str
) -> None:
    body = {"corpus_id": corpus_id, "proportions": SHARES}
    mixture_id = client.post("/mixtures", json=body).json()["id"]
    answer = client.post("/trainings", json={"mixture_id": mixture_id})
    payload = ledger.job(answer.json()["id"]).payload
    assert (payload["mixture_id"], payload["corpus_id"]) == (mixture_id, corpus_id)
    assert payload["mixture"] == SHARES


STAGES = [
    {"proportions": {"legal": 1.0}, "tokens": 40_960},
    {"proportions": {"code": 0.5, "talk": 0.5}, "ramp_tokens": 20_480},
]


def test_a_training_may_follow_a_schedule(
    client: TestClient, ledger: Ledger, corpus_id: str
) -> None:
    body = {"corpus_id": corpus_id, "schedule": {"stages": STAGES}, "steps": 40}
    answer = client.post("/trainings", json=body)
    assert answer.status_code == 202, answer.text
    job = ledger.job(answer.json()["id"])
    assert MixtureSchedule.from_dict(job.payload["schedule"]) == MixtureSchedule(
        (
            Stage(Mixture({"code": 0.0, "legal": 1.0, "talk": 0.0}), 40_960),
            Stage(Mixture({"code": 0.5, "legal": 0.0, "talk": 0.5}), None, 20_480),
        )
    )
    # 81,920 tokens: the first half is legal, and so is half of the ramp.
    assert job.payload["mixture"] == pytest.approx({"code": 0.1875, "legal": 0.625, "talk": 0.1875})
    run = ledger.add_run(
        job_id=job.id,
        corpus_id=corpus_id,
        role=RunRole.FULL,
        mixture=job.payload["mixture"],
        recipe=job.payload["recipe"],
        seed=0,
        label="full",
    )
    assert client.get(f"/trainings/{run.id}").json()["schedule"] == job.payload["schedule"]


@pytest.mark.parametrize(
    ("stages", "reason"),
    [
        ([], "at least 1 item"),
        ([{"proportions": {"poems": 1.0}}], "'poems' is no domain"),
        ([{"proportions": {"legal": 0.4}}], "sum to 1"),
        ([{"proportions": {"legal": 1.0}, "tokens": 9}], "the last none"),
        ([*STAGES, STAGES[1]], "every stage but the last its tokens"),
        ([{"proportions": {"legal": 1.0}, "ramp_tokens": 9}], "no stage before it"),
        ([STAGES[0], {"proportions": {"legal": 1.0}, "ramp_tokens": -1}], "ramp_tokens"),
        ([STAGES[0], {"proportions": {"legal": 1.0}, "ramp": 1}], "ramp"),
    ],
)
def test_a_schedule_that_cannot_be_followed_is_refused(
    client: TestClient, corpus_id: str, stages: list[Any], reason: str
) -> None:
    body = {"corpus_id": corpus_id, "schedule": {"stages": stages}}
    answer = client.post("/trainings", json=body)
    assert answer.status_code == 422
    assert reason in answer.text


@pytest.mark.parametrize(
    ("body", "status", "slug"),
    [
        ({}, 422, "invalid-mixture"),
        ({"proportions": SHARES}, 422, "invalid-mixture"),
        ({"proportions": SHARES, "mixture_id": "mix_1"}, 422, "invalid-mixture"),
        ({"schedule": {"stages": STAGES}}, 422, "invalid-mixture"),
        (
            {"proportions": SHARES, "schedule": {"stages": STAGES}, "corpus_id": "?"},
            422,
            "invalid-mixture",
        ),
        ({"proportions": {"code": 0.2}, "corpus_id": "?"}, 422, "invalid-mixture"),
        ({"proportions": {"poems": 1.0}, "corpus_id": "?"}, 422, "invalid-mixture"),
        ({"proportions": SHARES, "corpus_id": "corpus_none"}, 404, "unknown-corpus"),
        ({"mixture_id": "mix_none"}, 404, "unknown-mixture"),
        ({"proportions": SHARES, "corpus_id": "?", "recipe": "big"}, 422, "unknown-recipe"),
        ({"proportions": SHARES, "corpus_id": "?", "steps": 0}, 422, "invalid-request"),
    ],
)
def test_a_training_that_cannot_start_is_refused(
    client: TestClient, corpus_id: str, body: dict[str, Any], status: int, slug: str
) -> None:
    if body.get("corpus_id") == "?":
        body = {**body, "corpus_id": corpus_id}
    answer = client.post("/trainings", json=body)
    found = answer.json()["type"].removeprefix("urn:mixlab:error:")
    assert (answer.status_code, found) == (status, slug), answer.text


def test_a_run_shows_what_it_measured_and_consumed(
    client: TestClient, ledger: Ledger, corpus_id: str
) -> None:
    job_id = client.post(
        "/trainings", json={"corpus_id": corpus_id, "proportions": SHARES, "steps": 10}
    ).json()["id"]
    early = client.get(f"/trainings/{job_id}")
    assert (early.status_code, early.json()["type"]) == (409, "urn:mixlab:error:not-ready")
    run = ledger.add_run(
        job_id=job_id,
        corpus_id=corpus_id,
        role=RunRole.FULL,
        mixture=SHARES,
        recipe=target_small().to_dict(),
        seed=0,
        label="full",
    )
    losses = {"code": 3.0, "legal": 3.5, "talk": 4.0}
    ledger.record_observation(run.id, {"step": 10, "tokens": 40_960, "losses_nats": losses})
    consumed = [{"from_step": 0, "to_step": 10, "tokens": {"code": 8192, "legal": 12288}}]
    ledger.finish_run(run.id, consumed, 1.5)
    found = client.get(f"/trainings/{run.id}").json()
    assert found == client.get(f"/trainings/{job_id}").json()
    assert found["observations"] == [{"step": 10, "tokens": 40_960, "losses_nats": losses}]
    assert found["consumed"] == consumed
    assert (found["seconds"], found["schedule"]) == (1.5, None)
    assert found["links"]["job"] == f"/jobs/{job_id}"


def test_an_unknown_training_is_404(client: TestClient) -> None:
    assert client.get("/trainings/run_none").status_code == 404
    assert client.get("/trainings/job_none").status_code == 404


def test_a_job_of_several_runs_names_them(
    client: TestClient, ledger: Ledger, corpus_id: str
) -> None:
    job = ledger.submit(JobKind.TRAIN_PROXIES, {}, queue=Queue.GPU)
    recipe = target_small().to_dict()
    place = (job.id, corpus_id, RunRole.PROXY, SHARES, recipe)
    runs = [ledger.add_run(*place, seed, "natural") for seed in (0, 1)]
    answer = client.get(f"/trainings/{job.id}")
    assert answer.status_code == 409
    assert all(run.id in answer.json()["detail"] for run in runs)
    assert client.get(f"/trainings/{runs[1].id}").json()["seed"] == 1
