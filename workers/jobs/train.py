"""Job `train`: one training run on one mixture or schedule of mixtures, proxy or full-scale.

A run may grow, or be in rounds: several runs after one another, told as one. Between rounds child
jobs score what was read, and this one waits for them. A run may begin with what it inherits.
A run trains in this process. One at full scale may be shared by several (devices.py), which
torchrun starts and this process watches.
Observations and consumed tokens go into the ledger. A run whose loss stops being a number is
recorded as diverged, and the job fails with the reason. SIGTERM makes a checkpoint, and the next
attempt goes on from it.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from mixlab.corpora.shards import TokenisedCorpus
from mixlab.errors import Diverged
from mixlab.growing.planning import Growth
from mixlab.growing.running import run_grown
from mixlab.ledger.records import Run, RunRole
from mixlab.mixture import Mixture
from mixlab.recipes import Recipe
from mixlab.rounds.plan import Rounds
from mixlab.rounds.running import drawn_for, run_rounds
from mixlab.schedules import MixtureSchedule
from mixlab.training.events import Emit, Event
from mixlab.training.launching import Ranks, RanksCrashed
from mixlab.training.running import Stop, run_spec
from mixlab.training.spec import RunSpec
from workers.jobs.context import Crashed, JobContext, Stopped
from workers.jobs.devices import processes_of
from workers.jobs.inheriting import beginning_with_heir, inherited_in
from workers.jobs.recording import Recorder
from workers.jobs.scoring import ScoringJobs
from workers.jobs.waiting import measured
from workers.settings import WorkerSettings


def run(context: JobContext) -> Mapping[str, Any] | None:
    """Train, and record what was measured and consumed."""
    payload = context.job.payload
    if not measured(context, str(payload["corpus_id"])):
        return None
    corpus = TokenisedCorpus.open(context.settings.corpus_folder(payload["corpus_id"]))
    recipe = Recipe.from_dict(payload["recipe"]).for_vocabulary(corpus.vocabulary)
    record = context.ledger.add_run(
        job_id=context.job.id,
        corpus_id=payload["corpus_id"],
        role=RunRole(payload["role"]),
        mixture=payload["mixture"],
        recipe=recipe.to_dict(),
        seed=int(payload["seed"]),
        label=str(payload["label"]),
    )
    recorder = Recorder(context, record)
    try:
        told = _train(context, record, recorder)
    except Diverged as problem:
        recorder.failed(problem)
        raise
    if told is None:
        context.wait_for_children()
        return None
    return {"href": f"/trainings/{record.id}", "run_id": record.id, **told}


def spec_of(settings: WorkerSettings, payload: Mapping[str, Any], record: Run) -> RunSpec:
    """What the run's processes read, by the payload of its job and its row.

    The row's mixture is what all tokens make up.
    """
    stages = payload.get("schedule")
    schedule = (
        MixtureSchedule.of(Mixture(record.mixture))
        if stages is None
        else MixtureSchedule.from_dict(stages)
    )
    return RunSpec(
        corpus=settings.corpus_folder(record.corpus_id),
        recipe=Recipe.from_dict(dict(record.recipe)),
        schedule=schedule,
        folder=settings.run_folder(record.id),
        seed=record.seed,
        threads=settings.threads,
    )


def _train(context: JobContext, record: Run, emit: Emit) -> dict[str, Any] | None:
    """Train by the method that was asked for; what the job's result tells of that.

    None where child jobs are under way. Raises Stopped once a checkpoint is made for SIGTERM.
    """
    payload = context.job.payload
    spec = spec_of(context.settings, payload, record)
    if payload.get("growth"):
        return _grown(context, spec, Growth(**payload["growth"]), emit)
    if payload.get("rounds"):
        return _in_rounds(context, spec, record, Rounds(**payload["rounds"]), emit)
    asked = payload.get("inherit")
    if asked:
        # Where SIGTERM ends the process at once: there is no checkpoint to make.
        spec = beginning_with_heir(context, spec, asked)
    with context.stoppable() as stop:
        _check_ended(_part(context, spec, emit, stop))
    return {"inherited": inherited_in(spec.folder, asked)} if asked else {}


def _grown(context: JobContext, spec: RunSpec, growth: Growth, emit: Emit) -> dict[str, Any]:
    part, processes = partial(_part, context), processes_of(context.job, context.settings)
    with context.stoppable() as stop:
        last = run_grown(spec, growth, emit=emit, stop=stop, run=part, processes=processes)
    _check_ended(last)
    return {"grown_at": last.get("grown_at")}


def _in_rounds(
    context: JobContext, spec: RunSpec, record: Run, rounds: Rounds, emit: Emit
) -> dict[str, Any] | None:
    part, score = partial(_part, context), ScoringJobs(context, record, rounds)
    with context.stoppable() as stop:
        last = run_rounds(spec, rounds, emit=emit, stop=stop, run=part, score=score)
    if score.waiting:
        return None
    _check_ended(last)
    return {"drawn": drawn_for(spec.folder)}


def _check_ended(last: Event) -> None:
    if last["event"] == "stopped":
        raise Stopped("Stopped by SIGTERM; the run goes on from its checkpoint.")


def _part(context: JobContext, spec: RunSpec, emit: Emit, stop: Stop) -> Event:
    """Train what a spec describes, in this process or in several."""
    processes = processes_of(context.job, context.settings)
    if processes > 1:
        return _supervised(context, spec, processes, emit, stop)
    return run_spec(spec, emit=emit, stop=stop)


def _supervised(
    context: JobContext, spec: RunSpec, processes: int, emit: Emit, stop: Stop
) -> Event:
    """Train in several processes. Raises Crashed where they died; the log has their last words."""
    path = spec.write(spec.file)
    grace = context.settings.checkpoint_grace_seconds
    with Ranks.start(path, processes, grace_seconds=grace, threads=spec.threads) as ranks:
        try:
            return ranks.watch(emit, stop)
        except RanksCrashed as problem:
            raise Crashed(str(problem)) from problem
