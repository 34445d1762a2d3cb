"""The body of a training job on a tiny corpus that is measured already."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixlab.corpora.shards import write_corpus
from mixlab.ledger import Ledger
from mixlab.ledger.records import Job, JobKind, JobState, Queue, Run
from mixlab.mixture import Mixture
from mixlab.recipes import Recipe, proxy_smoke, tinyllama_1b
from mixlab.schedules import MixtureSchedule, Stage
from workers.jobs import train
from workers.jobs.context import JobContext
from workers.runner import STOPPED, perform
from workers.settings import WorkerSettings

VOCABULARY = 600  # more than the recipe has


@pytest.fixture
def settings(tmp_path: Path) -> WorkerSettings:
    (tmp_path / "home").mkdir()
    return WorkerSettings(home=tmp_path / "home", threads=1)


@pytest.fixture
def ledger(settings: WorkerSettings) -> Iterator[Ledger]:
    opened = Ledger.open(settings.database_url.get_secret_value())
    yield opened
    opened.close()


def measured_corpus(ledger: Ledger, settings: WorkerSettings) -> str:
    corpus = ledger.add_corpus("tiny", {"domains": {"law": {"paths": []}, "talk": {"paths": []}}})
    chance = np.random.default_rng(0)
    pieces = {
        name: {"train": chance.integers(1, VOCABULARY, (20, 200)), "validation": [[1, 2, 3]]}
        for name in ("law", "talk")
    }
    write_corpus(settings.corpus_folder(corpus.id), pieces, vocabulary=VOCABULARY, end_of_text_id=0)
    ledger.record_tokens(corpus.id, {"law": {"train_tokens": 4020}, "talk": {"train_tokens": 4020}})
    ledger.record_entropy(corpus.id, {})
    return corpus.id


def submitted(ledger: Ledger, corpus_id: str, recipe: Recipe, **changes: Any) -> Job:
    payload = {
        "corpus_id": corpus_id, "mixture": {"law": 0.75, "talk": 0.25}, "mixture_id": None,
        "recipe": recipe.to_dict(), "seed": 3, "role": "full", "label": "mine",
    }  # fmt: skip
    return ledger.submit(JobKind.TRAIN, {**payload, **changes}, queue=Queue.GPU)


def attempted(ledger: Ledger, settings: WorkerSettings, job: Job) -> int:
    """One attempt; the exit status of its process."""
    claimed = ledger.claim(job.id, "test", 60)
    assert claimed is not None
    return perform(JobContext(claimed, ledger, settings))


def made(ledger: Ledger, job: Job) -> Run:
    ended = ledger.job(job.id)
    assert ended.state is JobState.SUCCEEDED, ended.error
    run = ledger.run_of_job(job.id)
    assert run is not None
    return run


def test_a_recipe_is_widened_to_the_corpus_and_what_it_measured_is_recorded(
    ledger: Ledger, settings: WorkerSettings
) -> None:
    recipe = proxy_smoke().lasting(8)
    job = submitted(ledger, measured_corpus(ledger, settings), recipe)
    assert attempted(ledger, settings, job) == 0
    run = made(ledger, job)
    assert Recipe.from_dict(dict(run.recipe)) == recipe.for_vocabulary(VOCABULARY)
    assert [seen["step"] for seen in run.observations] == [2, 4, 6, 8]
    consumed = sum(part["tokens"]["law"] for part in run.consumed)
    assert consumed == pytest.approx(0.75 * recipe.tokens, abs=recipe.tokens_per_step)


def test_a_schedule_is_followed_and_the_row_has_what_all_tokens_make_up(
    ledger: Ledger, settings: WorkerSettings
) -> None:
    recipe = proxy_smoke().lasting(8)
    stages = (Stage(Mixture({"law": 1.0}), recipe.tokens // 2), Stage(Mixture({"talk": 1.0})))
    job = submitted(
        ledger, measured_corpus(ledger, settings), recipe,
        mixture={"law": 0.5, "talk": 0.5}, schedule=MixtureSchedule(stages).to_dict(),
    )  # fmt: skip
    assert attempted(ledger, settings, job) == 0
    run = made(ledger, job)
    assert run.mixture == {"law": 0.5, "talk": 0.5}
    by_range = [{d: n for d, n in part["tokens"].items() if n} for part in run.consumed]
    half = recipe.tokens // 4
    assert by_range == [{"law": half}, {"law": half}, {"talk": half}, {"talk": half}]


def test_sigterm_makes_a_checkpoint_and_the_next_attempt_goes_on_from_it(
    ledger: Ledger, settings: WorkerSettings
) -> None:
    """To the same losses and tokens as a run that nothing disturbed."""
    recipe = proxy_smoke().lasting(60)
    corpus_id = measured_corpus(ledger, settings)
    whole, broken = (submitted(ledger, corpus_id, recipe) for _ in range(2))
    assert attempted(ledger, settings, whole) == 0

    def stop() -> None:
        while not (run := ledger.run_of_job(broken.id)) or not run.observations:
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    handler = signal.getsignal(signal.SIGTERM)
    assert attempted(ledger, settings, broken) == STOPPED
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is handler
    assert ledger.job(broken.id).state is JobState.RUNNING  # its supervisor gives it back
    run = ledger.run_of_job(broken.id)
    assert run is not None
    assert 1 <= len(run.observations) < 4
    assert list(settings.run_folder(run.id).glob("checkpoints/step-*"))
    ledger.give_back(broken.id, 1, "stopped", None)
    assert attempted(ledger, settings, broken) == 0
    one, other = made(ledger, whole), made(ledger, broken)
    assert one.observations == other.observations
    assert one.consumed == other.consumed


@pytest.mark.parametrize(
    ("role", "recipe", "told", "gpus", "expected"),
    [
        ("proxy", tinyllama_1b(), 8, 8, 1),
        ("full", tinyllama_1b(), None, 0, 1),
        ("full", tinyllama_1b(), None, 8, 8),
        ("full", tinyllama_1b(), 2, 8, 2),
        ("full", proxy_smoke(), None, 8, 1),  # 512 tokens a step
        ("full", proxy_smoke(), 3, 0, 3),
        ("full", proxy_smoke(), 99, 0, 8),  # each needs a sequence
    ],
)
def test_a_full_scale_run_has_a_process_per_gpu_as_far_as_its_steps_have_tokens(
    ledger: Ledger, settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch,
    role: str, recipe: Recipe, told: int | None, gpus: int, expected: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(train, "visible_gpus", lambda: gpus)
    job = submitted(ledger, "corpus_none", recipe, role=role)
    given = settings.model_copy(update={"training_processes": told})
    assert train.processes_for(JobContext(job, ledger, given), recipe) == expected
