"""Job `train_proxies`: several proxy runs of one recipe on one GPU, as many at once as pays.

How many train as one program is measured on the device at the start; the job's stage says what
came of it, its result why. Each run is a row of its own in the ledger, as one that a job `train`
makes, so that fits find it again; one that diverges is recorded as such, and the others count.
Runs that an earlier attempt finished are not trained again.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mixlab.corpora.shards import TokenisedCorpus
from mixlab.errors import MixlabError
from mixlab.ledger.records import Run, RunRole
from mixlab.mixture import Mixture
from mixlab.recipes import Recipe
from mixlab.training.events import of_observation, of_result
from mixlab.training.groups import GroupProgress, Outcome, StackedRun, train_group
from mixlab.training.planning import Plan, choose
from workers.jobs.context import JobContext, Stopped
from workers.jobs.recording import Recorder


def run(context: JobContext) -> Mapping[str, Any]:
    """Train the runs that are missing, and record each."""
    corpus_id = str(context.job.payload["corpus_id"])
    corpus = TokenisedCorpus.open(context.settings.corpus_folder(corpus_id))
    recipe = Recipe.from_dict(context.job.payload["recipe"]).for_vocabulary(corpus.vocabulary)
    runs = [_begun(context, corpus_id, recipe, one) for one in context.job.payload["runs"]]
    missing = [one for one in runs if not one.finished and one.error is None]
    reasons = _train(context, recipe, corpus, missing) if missing else ()
    return {"run_ids": [one.id for one in runs], "reasons": list(reasons)}


def _begun(context: JobContext, corpus_id: str, recipe: Recipe, asked: Mapping[str, Any]) -> Run:
    return context.ledger.add_run(
        job_id=context.job.id,
        corpus_id=corpus_id,
        role=RunRole.PROXY,
        mixture=asked["mixture"],
        recipe=recipe.to_dict(),
        seed=int(asked["seed"]),
        label=str(asked["label"]),
    )


def _train(
    context: JobContext, recipe: Recipe, corpus: TokenisedCorpus, runs: Sequence[Run]
) -> tuple[str, ...]:
    """Train and record; why so. Raises Stopped once checkpoints are made for SIGTERM."""
    with context.stoppable() as stop:
        context.progress("measure", 0.0)
        plan = choose(recipe, len(runs))
        stopped = _train_as(plan, context, recipe, corpus, runs, stop)
    if stopped:
        raise Stopped("Stopped by SIGTERM; the runs go on from their checkpoints.")
    return plan.reasons


def _train_as(
    plan: Plan,
    context: JobContext,
    recipe: Recipe,
    corpus: TokenisedCorpus,
    runs: Sequence[Run],
    stop: Callable[[], bool],
) -> bool:
    """Train as planned and record each run; whether any was stopped before its end."""
    stage = f"train, {_in_words(plan)}"
    recorders = [Recorder(context, one) for one in runs]

    def tell(now: GroupProgress) -> None:
        context.progress(stage, now.fraction, eta_seconds=now.eta_seconds)
        if now.run is not None and now.observation is not None:
            recorders[now.run].observe(of_observation(now.observation))

    folder = context.settings.run_folder
    asked = [StackedRun(Mixture(one.mixture), one.seed, folder=folder(one.id)) for one in runs]
    outcomes = train_group(
        recipe, corpus, asked,
        plan=plan, progress=tell, stop=stop, threads=context.settings.threads,
    )  # fmt: skip
    stopped = [_record(recorder, one) for recorder, one in zip(recorders, outcomes, strict=True)]
    return any(stopped)


def _in_words(plan: Plan) -> str:
    stacks = f"stacks of {plan.stack}" if plan.stack > 1 else "one by one"
    return stacks if plan.processes == 1 else f"{stacks}, {plan.processes} processes"


def _record(recorder: Recorder, outcome: Outcome) -> bool:
    """Write how a run ended; whether it was stopped before its end."""
    if isinstance(outcome, MixlabError):
        recorder.failed(outcome)
        return False
    told = of_result(outcome)
    if told["event"] == "stopped":
        return True
    recorder.finish(told)
    return False
