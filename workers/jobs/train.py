"""Job `train`: one training run on one mixture or schedule of mixtures, proxy or full-scale.

A run may grow, or be in rounds: several runs after one another, told as one.
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
from workers.jobs.recording import Recorder
from workers.jobs.waiting import measured


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
    spec = spec_of(context, record, recipe)
    recorder = Recorder(context, record)
    try:
        told = _train(context, spec, recorder)
    except Diverged as problem:
        recorder.failed(problem)
        raise
    return {"href": f"/trainings/{record.id}", "run_id": record.id, **told}


def spec_of(context: JobContext, record: Run, recipe: Recipe) -> RunSpec:
    """What the run's processes read. The ledger's mixture is what all tokens make up."""
    stages = context.job.payload.get("schedule")
    schedule = (
        MixtureSchedule.of(Mixture(record.mixture))
        if stages is None
        else MixtureSchedule.from_dict(stages)
    )
    return RunSpec(
        corpus=context.settings.corpus_folder(record.corpus_id),
        recipe=recipe,
        schedule=schedule,
        folder=context.settings.run_folder(record.id),
        seed=record.seed,
        threads=context.settings.threads,
    )


def _train(context: JobContext, spec: RunSpec, emit: Emit) -> dict[str, Any]:
    """Train by the method that was asked for; what the job's result tells of that.

    Raises Stopped once a checkpoint is made for SIGTERM.
    """
    payload = context.job.payload
    processes = processes_of(context.job, context.settings)
    part = partial(_part, context, processes)
    told: dict[str, Any] = {}
    with context.stoppable() as stop:
        if payload.get("growth"):
            growth = Growth(**payload["growth"])
            last = run_grown(spec, growth, emit=emit, stop=stop, run=part, processes=processes)
            told = {"grown_at": last.get("grown_at")}
        elif payload.get("rounds"):
            last = run_rounds(spec, Rounds(**payload["rounds"]), emit=emit, stop=stop, run=part)
        else:
            last = part(spec, emit, stop)
    if last["event"] == "stopped":
        raise Stopped("Stopped by SIGTERM; the run goes on from its checkpoint.")
    return {"drawn": drawn_for(spec.folder)} if payload.get("rounds") else told


def _part(context: JobContext, processes: int, spec: RunSpec, emit: Emit, stop: Stop) -> Event:
    """Train what a spec describes, in this process or in several."""
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
