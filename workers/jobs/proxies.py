"""Proxy runs of a fit: submitted as child jobs, and found again when the fit goes on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixlab.ledger.records import Job, JobKind, JobState, Queue, Run, RunRole
from mixlab.mixture import Mixture
from mixlab.recipes import Recipe
from workers.jobs.context import JobContext

STAGE = "proxy_runs"


@dataclass(frozen=True)
class Proxy:
    """One designed proxy run."""

    label: str
    mixture: Mixture
    recipe: Recipe
    seed: int

    @property
    def key(self) -> str:
        """Unique within the fit: submitting it twice gives the first."""
        return f"{self.label}/seed-{self.seed}"


def submit_missing(context: JobContext, proxies: Sequence[Proxy]) -> bool:
    """Submit the runs that nobody has made; True once every one of them has ended."""
    made = _already_made(context, proxies)
    jobs = [_child(context, proxy) for proxy in proxies if proxy.key not in made]
    if all(job.state.terminal for job in jobs):
        return True
    context.progress(STAGE, 0.0)
    context.wait_for_children()
    return False


def collect(context: JobContext, proxies: Sequence[Proxy]) -> list[tuple[Proxy, Job, Run | None]]:
    """Each proxy with the job that made its run, and the run where it came that far."""
    made = _already_made(context, proxies)
    ended: list[tuple[Proxy, Job, Run | None]] = []
    for proxy in proxies:
        earlier = made.get(proxy.key)
        job = context.ledger.job(earlier.job_id) if earlier else _child(context, proxy)
        ended.append((proxy, job, earlier or context.ledger.run_of_job(job.id)))
    return ended


def _already_made(context: JobContext, proxies: Sequence[Proxy]) -> dict[str, Run]:
    """Finished runs of other jobs on this corpus with the same recipe, mixture and seed."""
    corpus_id = str(context.job.payload["corpus_id"])
    finished = {
        _identity(run.recipe, run.mixture, run.seed): run
        for run in context.ledger.runs(corpus_id=corpus_id, role=RunRole.PROXY)
        if run.seconds is not None and run.error is None
    }
    found = {
        proxy.key: finished.get(
            _identity(proxy.recipe.to_dict(), proxy.mixture.proportions, proxy.seed)
        )
        for proxy in proxies
    }
    return {
        key: run
        for key, run in found.items()
        if run is not None and context.ledger.job(run.job_id).state is JobState.SUCCEEDED
    }


def _identity(recipe: Mapping[str, Any], mixture: Mapping[str, float], seed: int) -> str:
    shares = sorted((domain, round(share, 12)) for domain, share in mixture.items())
    # As JSON, not as a Recipe: a run from before a recipe's fields changed is another run.
    return json.dumps([recipe, shares, seed], sort_keys=True)


def _child(context: JobContext, proxy: Proxy) -> Job:
    payload = {
        "corpus_id": context.job.payload["corpus_id"],
        "mixture": dict(proxy.mixture.proportions),
        "mixture_id": None,
        "recipe": proxy.recipe.to_dict(),
        "seed": proxy.seed,
        "role": RunRole.PROXY.value,
        "label": proxy.label,
    }
    return context.submit_child(JobKind.TRAIN, payload, queue=Queue.GPU, key=proxy.key)
