"""The body of a training job on a tiny corpus that is measured already."""

import os
import signal
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

from mixlab.ledger import Ledger
from mixlab.ledger.records import Job, JobKind, JobState, Queue
from mixlab.mixture import Mixture
from mixlab.recipes import Recipe, proxy_smoke
from mixlab.schedules import MixtureSchedule, Stage
from mixlab.training import planning
from tests.workers.playing import VOCABULARY, attempted, made, measured_corpus, submitted
from workers.jobs import train_proxies
from workers.runner import STOPPED
from workers.settings import WorkerSettings


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


class TestGroup:
    """Several runs in one job, on the CPU in stacks of two; measuring is cut short."""

    RUNS: ClassVar = {
        "natural": {"law": 0.75, "talk": 0.25},
        "uniform": {"law": 0.5, "talk": 0.5},
        "design-01": {"law": 0.25, "talk": 0.75},
    }

    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        quickly = partial(train_proxies.choose, stack=2, seconds=0.1)
        monkeypatch.setattr(train_proxies, "choose", quickly)

    def group(self, ledger: Ledger, corpus_id: str, recipe: Recipe) -> Job:
        runs = [{"label": name, "seed": 3, "mixture": one} for name, one in self.RUNS.items()]
        payload = {
            "corpus_id": corpus_id, "recipe": recipe.to_dict(), "role": "proxy", "runs": runs,
        }  # fmt: skip
        return ledger.submit(JobKind.TRAIN_PROXIES, payload, queue=Queue.GPU)

    def test_each_run_is_recorded_as_one_that_is_trained_alone(
        self, ledger: Ledger, settings: WorkerSettings
    ) -> None:
        corpus_id, recipe = measured_corpus(ledger, settings), proxy_smoke().lasting(8)
        job = self.group(ledger, corpus_id, recipe)
        assert attempted(ledger, settings, job) == 0
        done = ledger.job(job.id)
        assert done.state is JobState.SUCCEEDED, done.error
        assert done.stage == "train, stacks of 2"
        runs = ledger.runs_of_job(job.id)
        assert (done.result or {})["run_ids"] == [run.id for run in runs]
        assert any("stacks of 2" in reason for reason in (done.result or {})["reasons"])
        assert [(run.label, dict(run.mixture)) for run in runs] == list(self.RUNS.items())
        assert all(run.finished for run in runs)
        alone = submitted(ledger, corpus_id, recipe, mixture=self.RUNS["uniform"], role="proxy")
        assert attempted(ledger, settings, alone) == 0
        one, other = runs[1], made(ledger, alone)
        assert one.recipe == other.recipe
        assert one.consumed == other.consumed
        for seen, expected in zip(one.observations, other.observations, strict=True):
            assert (seen["step"], seen["tokens"]) == (expected["step"], expected["tokens"])
            assert seen["losses_nats"] == pytest.approx(expected["losses_nats"], abs=1e-4)

    def test_a_run_that_diverges_is_recorded_and_the_others_count(
        self, ledger: Ledger, settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The middle run's rate is raised until its loss is none."""
        usual = train_proxies.StackedRun

        def wild(mixture: Mixture, seed: int, folder: Path) -> object:
            rate = 1e4 if dict(mixture.proportions) == self.RUNS["uniform"] else None
            return usual(mixture, seed, rate, folder)

        monkeypatch.setattr(train_proxies, "StackedRun", wild)
        recipe = replace(proxy_smoke(), warmup_steps=1).lasting(40)
        job = self.group(ledger, measured_corpus(ledger, settings), recipe)
        assert attempted(ledger, settings, job) == 0
        assert ledger.job(job.id).state is JobState.SUCCEEDED
        runs = ledger.runs_of_job(job.id)
        assert [run.finished for run in runs] == [True, False, True]
        assert runs[1].error is not None
        assert runs[1].error["type"] == "diverged"

    def test_what_an_attempt_finished_is_not_trained_again(
        self, ledger: Ledger, settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Stopped after its first stack, the group goes on with the run that is left."""
        recipe = proxy_smoke().lasting(40)
        job = self.group(ledger, measured_corpus(ledger, settings), recipe)

        def stop() -> None:
            while len([r for r in ledger.runs_of_job(job.id) if len(r.observations) == 4]) < 2:
                time.sleep(0.002)
            os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=stop)
        thread.start()
        status = attempted(ledger, settings, job)
        thread.join()
        assert status == STOPPED
        first, second, third = ledger.runs_of_job(job.id)
        assert first.finished
        assert second.finished
        assert not third.finished
        asked: list[int] = []

        def choosing(recipe: Recipe, runs: int) -> object:
            asked.append(runs)
            return planning.choose(recipe, runs, stack=1, seconds=0.1)

        monkeypatch.setattr(train_proxies, "choose", choosing)
        ledger.give_back(job.id, 1, "stopped", None)
        assert attempted(ledger, settings, job) == 0
        assert asked == [1]
        assert all(run.finished for run in ledger.runs_of_job(job.id))
        assert ledger.runs_of_job(job.id)[:2] == [first, second]
