"""Job `train`: one training run on one mixture or schedule of mixtures, proxy or full-scale.

A run trains in this process. One at full scale may be shared by several (devices.py), which
torchrun starts and this process watches.
Observations and consumed tokens go into the ledger. A run whose loss stops being a number is
recorded as diverged, and the job fails with the reason. SIGTERM makes a checkpoint, and the next
attempt goes on from it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from mixlab.corpora.shards import TokenisedCorpus
from mixlab.errors import Diverged
from mixlab.ledger.records import Run, RunRole
from mixlab.mixture import Mixture
from mixlab.recipes import Recipe
from mixlab.schedules import MixtureSchedule
from mixlab.training.events import Emit, Event
from mixlab.training.launching import Ranks, RanksCrashed
from mixlab.training.running import run_spec
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
        _train(context, spec, recorder)
    except Diverged as problem:
        recorder.failed(problem)
        raise
    return {"href": f"/trainings/{record.id}", "run_id": record.id}


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


def _train(context: JobContext, spec: RunSpec, emit: Emit) -> None:
    """Train in this process or in several. Raises Stopped once a checkpoint is made for SIGTERM."""
    processes = processes_of(context.job, context.settings)
    with context.stoppable() as stop:
        if processes > 1:
            told = _supervised(context, spec, processes, emit, stop)
        else:
            told = run_spec(spec, emit=emit, stop=stop)
    if told["event"] == "stopped":
        raise Stopped("Stopped by SIGTERM; the run goes on from its checkpoint.")


def _supervised(
    context: JobContext, spec: RunSpec, processes: int, emit: Emit, stop: Callable[[], bool]
) -> Event:
    """Train in several processes. Raises Crashed where they died; the log has their last words."""
    path = spec.write(spec.folder / "spec.json")
    grace = context.settings.checkpoint_grace_seconds
    with Ranks.start(path, processes, grace_seconds=grace, threads=spec.threads) as ranks:
        try:
            return ranks.watch(emit, stop)
        except RanksCrashed as problem:
            raise Crashed(str(problem)) from problem
