"""Job `train`: one training run on one mixture, proxy or full-scale.

Observations and consumed tokens go into the ledger. A run whose loss stops
being a number is recorded as diverged, and the job fails with the reason.
"""

from collections.abc import Mapping
from typing import Any

from mixlab.corpora.shards import TokenisedCorpus
from mixlab.errors import Diverged
from mixlab.ledger.records import Run, RunRole
from mixlab.mixture import Mixture
from mixlab.recipes import Recipe
from mixlab.runs import Observation
from mixlab.training import TrainingProgress, TrainingResult, train
from mixlab.training.memory import check_memory
from workers.jobs.context import JobContext
from workers.jobs.waiting import measured


def run(context: JobContext) -> Mapping[str, Any] | None:
    """Train, and record what was measured and consumed."""
    payload = context.job.payload
    if not measured(context, str(payload["corpus_id"])):
        return None
    corpus = TokenisedCorpus.open(context.settings.corpus_folder(payload["corpus_id"]))
    recipe = Recipe.from_dict(payload["recipe"]).for_vocabulary(corpus.vocabulary)
    check_memory(recipe)
    record = context.ledger.add_run(
        job_id=context.job.id,
        corpus_id=payload["corpus_id"],
        role=RunRole(payload["role"]),
        mixture=payload["mixture"],
        recipe=recipe.to_dict(),
        seed=int(payload["seed"]),
        label=str(payload["label"]),
    )
    _train_and_record(context, record, recipe, corpus)
    return {"href": f"/trainings/{record.id}", "run_id": record.id}


def _train_and_record(
    context: JobContext, record: Run, recipe: Recipe, corpus: TokenisedCorpus
) -> None:
    try:
        result = train(
            recipe,
            corpus,
            Mixture(record.mixture),
            seed=record.seed,
            folder=context.settings.run_folder(record.id),
            progress=lambda now: _report(context, record, now),
            threads=context.settings.threads,
        )
    except Diverged as problem:
        error = {"type": problem.slug(), "title": "The run diverged", "detail": str(problem)}
        context.ledger.finish_run(record.id, consumed=(), seconds=None, error=error)
        raise
    _record(context, record, result)


def _report(context: JobContext, record: Run, now: TrainingProgress) -> None:
    context.progress("train", now.step / now.steps, eta_seconds=now.eta_seconds)
    if now.observation is not None:
        _observe(context, record, now.observation)


def _record(context: JobContext, record: Run, result: TrainingResult) -> None:
    # Again, because what an earlier attempt measured just before it was killed may be missing.
    for observation in result.observations:
        _observe(context, record, observation)
    context.ledger.finish_run(record.id, consumed=result.consumed, seconds=result.seconds)


def _observe(context: JobContext, record: Run, seen: Observation) -> None:
    context.ledger.record_observation(
        record.id,
        {"step": seen.step, "tokens": seen.tokens, "losses_nats": dict(seen.losses_nats)},
    )
