"""Growth, rounds and inheritance in a training job, on a tiny corpus that is measured already."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mixlab.corpora.drawn import DRAWN_FILE
from mixlab.ledger import Ledger
from mixlab.ledger.records import Job, JobKind, JobState, Queue, RunRole
from mixlab.recipes import Recipe, proxy_smoke
from mixlab.rounds.plan import Rounds
from mixlab.rounds.running import PARTS, run_rounds
from mixlab.rounds.scores import part_file
from mixlab.training.weights import WEIGHTS
from tests.workers.playing import attempted, made, measured_corpus, submitted, work
from workers.jobs.context import JobContext
from workers.jobs.train import spec_of
from workers.runner import STOPPED, perform
from workers.settings import WorkerSettings

ROUNDS = {"rounds": {"count": 2, "share": 0.5, "unit": "sequence"}}


class Stopping(JobContext):
    """SIGTERM comes as soon as the job is in a stage."""

    until = ""

    def progress(self, stage: str, fraction: float, eta_seconds: float | None = None) -> None:
        super().progress(stage, fraction, eta_seconds)
        if stage == self.until and fraction > 0:
            os.kill(os.getpid(), signal.SIGTERM)


def stopped_in(stage: str, ledger: Ledger, settings: WorkerSettings, job: Job) -> None:
    """Work on a job until SIGTERM in that stage has ended its attempt, and give it back."""
    while True:
        if ledger.job(job.id).state is JobState.WAITING:
            for child in ledger.children(job.id):
                work(ledger, settings, child)
        claimed = ledger.claim(job.id, "test", 60)
        assert claimed is not None, ledger.job(job.id)
        context = Stopping(claimed, ledger, settings)
        context.until = stage
        if perform(context) == STOPPED:
            ledger.give_back(job.id, claimed.attempt, "stopped", None)
            return


def two_layers(steps: int) -> Recipe:
    return proxy_smoke().lasting(steps).in_shape(layers=2)


def stages(ledger: Ledger, job: Job) -> list[str]:
    told = [one.data["stage"] for one in ledger.events(job.id) if one.event == "stage"]
    return list(dict.fromkeys(told))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"growth": {"factor": 2, "tokens": 10_000}}, ["small model", "growth", "large model"]),
        (ROUNDS, ["round 1 of 2", "score round 1 of 2", "round 2 of 2"]),
    ],
)
def test_several_runs_are_one_with_stages(
    ledger: Ledger, settings: WorkerSettings, asked: dict[str, Any], expected: list[str]
) -> None:
    recipe = two_layers(24)
    job = submitted(ledger, measured_corpus(ledger, settings), recipe, **asked)
    result = work(ledger, settings, job).result or {}
    run = made(ledger, job)
    assert run.observations[-1]["step"] == 24
    assert sum(sum(part["tokens"].values()) for part in run.consumed) == recipe.tokens
    assert stages(ledger, job) == expected
    if "rounds" in asked:
        assert result["drawn"]["round 2"]["drift"] < 0.05
    else:
        assert result["grown_at"]["tokens"] >= 10_000


def waiting_for_scores(ledger: Ledger, settings: WorkerSettings) -> tuple[Job, Path]:
    """A training whose first round is over, and the folder of that round."""
    job = submitted(ledger, measured_corpus(ledger, settings), two_layers(24), **ROUNDS)
    attempted(ledger, settings, job)
    run = ledger.run_of_job(job.id)
    assert run is not None
    return job, settings.run_folder(run.id) / "round-1"


class TestRounds:
    def test_scored_by_jobs_that_are_stopped_they_end_as_in_one_process(
        self, ledger: Ledger, settings: WorkerSettings, tmp_path: Path
    ) -> None:
        recipe = two_layers(60)
        job = submitted(ledger, measured_corpus(ledger, settings), recipe, **ROUNDS)
        assert attempted(ledger, settings, job) == 0
        parked, children = ledger.job(job.id), ledger.children(job.id)
        assert (parked.state, parked.stage) == (JobState.WAITING, "score round 1 of 2")
        assert [(one.kind, one.queue) for one in children] == [(JobKind.SCORE, Queue.GPU)] * PARTS
        run = ledger.run_of_job(job.id)
        assert run is not None
        scores = settings.run_folder(run.id) / "round-1" / "scores"
        stopped_in("score round 1", ledger, settings, children[0])
        assert not part_file(scores, 0, PARTS).exists()
        # Another worker has the same part at once, as where a lease ran out.
        twin = ledger.submit(JobKind.SCORE, children[1].payload, queue=Queue.GPU)
        assert work(ledger, settings, twin).state is JobState.SUCCEEDED
        before = part_file(scores, 1, PARTS).stat().st_mtime_ns
        assert work(ledger, settings, job).state is JobState.SUCCEEDED
        assert part_file(scores, 1, PARTS).stat().st_mtime_ns == before
        spec = replace(spec_of(settings, job.payload, run), folder=tmp_path / "alone")
        rounds = Rounds(count=2, share=0.5)
        alone = run_rounds(spec, rounds, emit=lambda _: None, stop=lambda: False)
        here = settings.run_folder(run.id)
        assert (here / DRAWN_FILE).read_bytes() == (spec.folder / DRAWN_FILE).read_bytes()
        one, other = load_file(here / WEIGHTS), load_file(spec.folder / WEIGHTS)
        assert all(torch.equal(one[name], other[name]) for name in one)
        ended = made(ledger, job)
        assert list(ended.observations) == [
            {name: seen[name] for name in ("step", "tokens", "losses_nats")}
            for seen in alone["observations"]
        ]

    def test_sigterm_in_a_round_leaves_what_was_done(
        self, ledger: Ledger, settings: WorkerSettings
    ) -> None:
        corpus_id, asked = measured_corpus(ledger, settings), {"rounds": {"count": 3}}
        whole, broken = (submitted(ledger, corpus_id, two_layers(60), **asked) for _ in range(2))
        work(ledger, settings, whole)
        stopped_in("round 2 of 3", ledger, settings, broken)
        work(ledger, settings, broken)
        one, other = made(ledger, whole), made(ledger, broken)
        assert one.observations == other.observations
        assert one.consumed == other.consumed
        keys = [child.key for child in ledger.children(broken.id)]
        assert keys == [f"score/round-{n}/part-{part}" for n in (1, 2) for part in range(PARTS)]

    def test_a_job_that_can_not_score_fails_the_training_with_its_reason(
        self, ledger: Ledger, settings: WorkerSettings
    ) -> None:
        job, first = waiting_for_scores(ledger, settings)
        (first / WEIGHTS).write_bytes(b"damaged")
        ended = work(ledger, settings, job)
        assert ended.state is JobState.FAILED
        assert (ended.error or {})["type"] == "truncated-file"
        assert "Part 1 of 8 of the scores of round 1" in (ended.error or {})["detail"]

    def test_parts_that_another_home_has_are_missed_once(
        self, ledger: Ledger, settings: WorkerSettings
    ) -> None:
        job, first = waiting_for_scores(ledger, settings)
        for child in ledger.children(job.id):
            work(ledger, settings, child)
        part_file(first / "scores", 3, PARTS).unlink()
        ended = work(ledger, settings, job)
        assert (ended.error or {})["type"] == "missing-file"
        assert "MIXLAB_HOME" in (ended.error or {})["detail"]

    def test_a_cancelled_training_takes_its_scores_along(
        self, ledger: Ledger, settings: WorkerSettings
    ) -> None:
        job, _ = waiting_for_scores(ledger, settings)
        assert ledger.request_cancel(job.id).state is JobState.CANCELLED
        assert {one.state for one in ledger.children(job.id)} == {JobState.CANCELLED}


class TestInheritance:
    def heir(self, ledger: Ledger, settings: WorkerSettings, corpus_id: str) -> tuple[str, Job]:
        """A donor's run, and a job that is to inherit half of its layers and neurons."""
        donor = submitted(ledger, corpus_id, self.larger(40))
        assert attempted(ledger, settings, donor) == 0
        run = made(ledger, donor)
        asked = {"training_id": run.id, "importance": "taylor", "sequences": 8}
        return run.id, submitted(ledger, corpus_id, two_layers(8), inherit=asked)

    def larger(self, steps: int) -> Recipe:
        recipe = two_layers(steps)
        return recipe.in_shape(layers=4, ffn_width=2 * recipe.architecture.ffn_width)

    def test_an_heir_begins_where_its_donor_ended(
        self, ledger: Ledger, settings: WorkerSettings
    ) -> None:
        corpus_id = measured_corpus(ledger, settings)
        donor_id, job = self.heir(ledger, settings, corpus_id)
        ended = work(ledger, settings, job)
        run = made(ledger, job)
        told = (ended.result or {})["inherited"]
        assert told["training_id"] == donor_id
        assert len(told["layers"]) == Recipe.from_dict(dict(run.recipe)).architecture.layers
        assert set(told["loss_nats"]) == {"donor", "without_layers", "heir"}
        assert stages(ledger, job)[0] == "inherit"
        donor = ledger.run(donor_id)
        assert run.observations[-1]["losses_nats"] != donor.observations[-1]["losses_nats"]
        fresh = submitted(ledger, corpus_id, two_layers(8))
        work(ledger, settings, fresh)
        assert run.observations != made(ledger, fresh).observations

    def test_a_retry_takes_the_heir_that_is_there_whatever_became_of_the_donor(
        self, ledger: Ledger, settings: WorkerSettings
    ) -> None:
        corpus_id = measured_corpus(ledger, settings)
        donor_id, job = self.heir(ledger, settings, corpus_id)
        stopped_in("train", ledger, settings, job)
        run = ledger.run_of_job(job.id)
        assert run is not None
        heir = settings.run_folder(run.id) / "heir" / WEIGHTS
        before = heir.stat().st_mtime_ns
        settings.run_weights(donor_id).unlink()
        assert work(ledger, settings, job).state is JobState.SUCCEEDED
        assert heir.stat().st_mtime_ns == before

    def test_what_a_killed_attempt_left_of_an_heir_is_none(
        self, ledger: Ledger, settings: WorkerSettings
    ) -> None:
        _, job = self.heir(ledger, settings, measured_corpus(ledger, settings))
        first = ledger.claim(job.id, "test", 60)
        assert first is not None
        ledger.give_back(job.id, first.attempt, "killed", None)
        recipe = Recipe.from_dict(job.payload["recipe"]).for_vocabulary(600)
        run = ledger.add_run(
            job_id=job.id, corpus_id=job.payload["corpus_id"], role=RunRole.FULL,
            mixture=job.payload["mixture"], recipe=recipe.to_dict(), seed=3, label="mine",
        )  # fmt: skip
        aside = settings.run_folder(run.id) / ".writing-heir"
        aside.mkdir(parents=True)
        (aside / WEIGHTS).write_bytes(b"half")
        assert work(ledger, settings, job).state is JobState.SUCCEEDED
        assert not aside.exists()

    def test_a_donor_that_vanished_fails_the_job_and_says_which(
        self, ledger: Ledger, settings: WorkerSettings
    ) -> None:
        donor_id, job = self.heir(ledger, settings, measured_corpus(ledger, settings))
        settings.run_weights(donor_id).unlink()
        ended = work(ledger, settings, job)
        assert (ended.error or {})["type"] == "missing-file"
        assert donor_id in (ended.error or {})["detail"]
        assert "MIXLAB_RETENTION_DAYS" in (ended.error or {})["detail"]
