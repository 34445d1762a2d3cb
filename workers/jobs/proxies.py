"""Proxy runs of a fit: submitted as child jobs, and found again when the fit goes on.

Without GPUs each run is a job of its own, since one process per core serves a CPU best. With
GPUs they go out in groups, one job per GPU, whose worker finds out by measurement how many train
at once. A run stands in one job only, however often and on whichever worker the fit is resumed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixlab.errors import MixlabError, named
from mixlab.ledger.records import Job, JobKind, Queue, Run, RunRole
from mixlab.mixture import Mixture
from mixlab.recipes import Recipe
from workers.jobs.context import JobContext
from workers.jobs.waiting import error_of

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


@dataclass(frozen=True)
class Ended:
    """A proxy with the job that made its run, and the run where it came that far."""

    proxy: Proxy
    job: Job
    run: Run | None

    @property
    def used(self) -> bool:
        """Whether its observations count."""
        return self.run is not None and self.run.finished

    @property
    def state(self) -> str:
        """In a word: a run that failed may stand in a group whose job has succeeded."""
        if self.used:
            return "used"
        return "failed" if self.run is not None and self.run.error else self.job.state.value

    @property
    def recorded_error(self) -> dict[str, Any] | None:
        """What the run met, or its job."""
        error = (self.run.error if self.run is not None else None) or self.job.error
        return dict(error) if error else None

    def error(self, before: str = "") -> MixlabError:
        """The same as an error, with `before` in front of what it says."""
        found = self.recorded_error
        if found is None:
            return error_of(self.job, before)
        return named(str(found["type"]), before + str(found["detail"]))


def submit_missing(context: JobContext, proxies: Sequence[Proxy]) -> bool:
    """Submit the runs that nobody has made; True once every one of them has ended."""
    made = _made_by_others(context, proxies)
    missing = [proxy for proxy in proxies if proxy.key not in made]
    jobs = _jobs_of(context, missing)
    _submit(context, [proxy for proxy in missing if proxy.key not in jobs])
    jobs = _jobs_of(context, missing)
    if all(job.state.terminal for job in jobs.values()):
        return True
    context.progress(STAGE, 0.0)
    context.wait_for_children()
    return False


def collect(context: JobContext, proxies: Sequence[Proxy]) -> list[Ended]:
    """Each proxy with the job that made its run, and the run where it came that far."""
    made = _made_by_others(context, proxies)
    own = _jobs_of(context, proxies)
    runs = {
        (job_id, run.label, run.seed): run
        for job_id in {job.id for job in own.values()}
        for run in context.ledger.runs_of_job(job_id)
    }
    ended = []
    for proxy in proxies:
        earlier = made.get(proxy.key)
        job = context.ledger.job(earlier.job_id) if earlier else own[proxy.key]
        run = earlier or runs.get((job.id, proxy.label, proxy.seed))
        ended.append(Ended(proxy, job, run))
    return ended


def _made_by_others(context: JobContext, proxies: Sequence[Proxy]) -> dict[str, Run]:
    """Finished runs on this corpus with the same recipe, mixture and seed, not of this fit."""
    corpus_id = str(context.job.payload["corpus_id"])
    own = {child.id for child in context.ledger.children(context.job.id)}
    finished = {
        _identity(run.recipe, run.mixture, run.seed): run
        for run in context.ledger.runs(corpus_id=corpus_id, role=RunRole.PROXY)
        if run.finished and run.job_id not in own
    }
    found = {
        proxy.key: finished.get(
            _identity(proxy.recipe.to_dict(), proxy.mixture.proportions, proxy.seed)
        )
        for proxy in proxies
    }
    return {key: run for key, run in found.items() if run is not None}


def _identity(recipe: Mapping[str, Any], mixture: Mapping[str, float], seed: int) -> str:
    shares = sorted((domain, round(share, 12)) for domain, share in mixture.items())
    # As JSON, not as a Recipe: a run from before a recipe's fields changed is another run.
    return json.dumps([recipe, shares, seed], sort_keys=True)


def _jobs_of(context: JobContext, proxies: Sequence[Proxy]) -> dict[str, Job]:
    """The child jobs of this fit by the key of each proxy that they make."""
    found: dict[str, Job] = {}
    for child in context.ledger.children(context.job.id):
        if child.kind is JobKind.TRAIN and child.key is not None:
            found[child.key] = child
        elif child.kind is JobKind.TRAIN_PROXIES:
            keys = (f"{run['label']}/seed-{run['seed']}" for run in child.payload["runs"])
            found.update(dict.fromkeys(keys, child))
    wanted = {proxy.key for proxy in proxies}
    return {key: job for key, job in found.items() if key in wanted}


def _submit(context: JobContext, proxies: Sequence[Proxy]) -> None:
    gpus = context.settings.gpus
    if not gpus:
        for proxy in proxies:
            _submit_one(context, proxy)
        return
    for first in range(min(gpus, len(proxies))):
        _submit_group(context, proxies[first::gpus])


def _submit_one(context: JobContext, proxy: Proxy) -> None:
    payload = {
        "corpus_id": context.job.payload["corpus_id"],
        "mixture": dict(proxy.mixture.proportions),
        "mixture_id": None,
        "recipe": proxy.recipe.to_dict(),
        "seed": proxy.seed,
        "role": RunRole.PROXY.value,
        "label": proxy.label,
    }
    context.submit_child(JobKind.TRAIN, payload, queue=Queue.GPU, key=proxy.key)


def _submit_group(context: JobContext, proxies: Sequence[Proxy]) -> None:
    """One job for several runs of one recipe; its first run names it, since it is in no other."""
    payload = {
        "corpus_id": context.job.payload["corpus_id"],
        "recipe": proxies[0].recipe.to_dict(),
        "role": RunRole.PROXY.value,
        "runs": [
            {"label": one.label, "seed": one.seed, "mixture": dict(one.mixture.proportions)}
            for one in proxies
        ],
    }
    key = f"group/{proxies[0].key}"
    context.submit_child(JobKind.TRAIN_PROXIES, payload, queue=Queue.GPU, key=key)
