"""Job `fit_mixture`: from a corpus, or a table of observations, to a solved mixture.

The body is entered again whenever its child jobs have ended, and does what is
still missing: measure the corpus, train the designed proxy runs, fit, solve.
Runs that an earlier job made on the same corpus are used again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixlab import tables
from mixlab.corpora.shards import TokenisedCorpus
from mixlab.design import design_mixtures
from mixlab.diagnostics import heldout_mre_percent, seed_noise
from mixlab.entropy.weighting import softmax_mixture
from mixlab.errors import DomainTooSmall, TooFewMixtures
from mixlab.fitting import Fit, fit
from mixlab.laws import law
from mixlab.ledger.records import Job, JobState, Run
from mixlab.mixture import Mixture
from mixlab.recipes import Recipe, recipe
from mixlab.runs import Observation, Observations
from mixlab.solvers import Constraints, Objective, solve
from workers.jobs.context import JobContext
from workers.jobs.proxies import Proxy, collect, submit_missing
from workers.jobs.waiting import measured


@dataclass(frozen=True)
class Problem:
    """What is to be solved once there are observations."""

    law: str
    budget_tokens: int
    tokens_per_step: int
    weights: Mapping[str, float] | None
    constraints: Mapping[str, Any]
    tokens_available: Mapping[str, int] | None

    @property
    def step(self) -> float:
        """The step at which the budget is spent, in the observations' own steps."""
        return self.budget_tokens / self.tokens_per_step


@dataclass(frozen=True)
class Evidence:
    """Observations, and where they came from."""

    observations: Observations
    proxy_runs: list[dict[str, Any]]
    references: dict[str, Mixture]


def run(context: JobContext) -> Mapping[str, Any] | None:
    """Do the stages that are missing; None while child jobs are under way."""
    payload = context.job.payload
    if payload.get("observations") is not None:
        evidence: Evidence | None = Evidence(tables.from_rows(payload["observations"]), [], {})
    else:
        evidence = _from_corpus(context)
    if evidence is None:
        return None
    context.progress("fit", 0.97)
    problem = _problem(context)
    mixture_id = _fit_and_solve(context, problem, evidence)
    return {"href": f"/mixtures/{mixture_id}", "mixture_id": mixture_id}


def _from_corpus(context: JobContext) -> Evidence | None:
    corpus_id = str(context.job.payload["corpus_id"])
    if not measured(context, corpus_id):
        return None
    _check_before_training(context)
    references = reference_mixtures(context)
    wanted = _designed(context, references)
    if not submit_missing(context, wanted):
        return None
    return _evidence(collect(context, wanted), references)


def _check_before_training(context: JobContext) -> None:
    """Raise now what would otherwise show once all proxy runs are trained.

    DomainTooSmall for a domain that the recipe can't cut a sequence from, and
    InfeasibleConstraints where the token counts, known only now, leave no mixture.
    """
    corpus = context.ledger.corpus(str(context.job.payload["corpus_id"]))
    context_tokens = recipe(str(context.job.payload["recipe"])).architecture.context
    counts = {domain: int(c["train_tokens"]) for domain, c in (corpus.tokens or {}).items()}
    small = [f"{domain!r} ({n})" for domain, n in counts.items() if n <= context_tokens]
    if small:
        raise DomainTooSmall(
            f"Too few training tokens for one sequence of {context_tokens} and its target: "
            f"{', '.join(small)}. Add text, or leave such domains out of the corpus."
        )
    constraints_of(_problem(context)).bounds(list(counts))


def reference_mixtures(context: JobContext) -> dict[str, Mixture]:
    """Natural, uniform and conditional-entropy mixtures of the job's corpus."""
    corpus = context.ledger.corpus(str(context.job.payload["corpus_id"]))
    tokens, entropy = corpus.tokens or {}, corpus.entropy or {}
    return {
        "natural": Mixture.normalised({d: tokens[d]["train_tokens"] for d in tokens}),
        "uniform": Mixture.uniform(list(tokens)),
        "conditional_entropy": softmax_mixture({d: entropy[d]["conditional"] for d in tokens}),
    }


def _designed(context: JobContext, references: Mapping[str, Mixture]) -> list[Proxy]:
    design = context.job.payload["design"]
    mixtures = design_mixtures(
        references["natural"],
        references["conditional_entropy"],
        count=int(design["count"]),
        floor=float(design["floor"]),
        seed=int(design["seed"]),
    )
    folder = context.settings.corpus_folder(str(context.job.payload["corpus_id"]))
    vocabulary = TokenisedCorpus.open(folder).vocabulary
    training = recipe(str(context.job.payload["recipe"])).for_vocabulary(vocabulary)
    seed = int(design["seed"])
    runs = [Proxy(label, mixture, training, seed) for label, mixture in mixtures.items()]
    # The same mixture under other seeds says how far two runs differ by chance alone.
    repeats = [
        Proxy("uniform", mixtures["uniform"], training, seed + 1 + extra)
        for extra in range(int(design["repeated_seeds"]))
    ]
    return runs + repeats


def _evidence(
    ended: list[tuple[Proxy, Job, Run | None]], references: dict[str, Mixture]
) -> Evidence:
    rows: list[Observation] = []
    listed: list[dict[str, Any]] = []
    for proxy, job, made in ended:
        usable = made is not None and made.error is None and job.state is JobState.SUCCEEDED
        if made is not None and usable:
            rows.extend(observations_of(made))
        listed.append(
            {
                "run_id": made.id if made else None,
                "job_id": job.id,
                "label": proxy.label,
                "seed": proxy.seed,
                "mixture": dict(proxy.mixture.proportions),
                "state": "used" if usable else job.state.value,
                "seconds": made.seconds if made else None,
                "error": dict(job.error) if job.error else None,
            }
        )
    if not rows:
        raise TooFewMixtures(
            f"None of the {len(listed)} proxy runs succeeded; the first one said: "
            f"{listed[0]['error']}"
        )
    return Evidence(Observations.of(rows), listed, references)


def observations_of(made: Run) -> list[Observation]:
    """What a recorded run measured, as observations."""
    training = Recipe.from_dict(dict(made.recipe))
    return [
        Observation(
            run=made.id,
            mixture=Mixture(made.mixture),
            step=int(seen["step"]),
            tokens=int(seen["tokens"]),
            losses_nats=seen["losses_nats"],
            params=training.architecture.parameters,
        )
        for seen in made.observations
    ]


def _problem(context: JobContext) -> Problem:
    payload = context.job.payload
    available = payload.get("tokens_available")
    if available is None and payload.get("corpus_id"):
        tokens = context.ledger.corpus(str(payload["corpus_id"])).tokens or {}
        available = {domain: int(counts["train_tokens"]) for domain, counts in tokens.items()}
    return Problem(
        law=str(payload["law"]),
        budget_tokens=int(payload["budget_tokens"]),
        tokens_per_step=int(payload["tokens_per_step"]),
        weights=(payload.get("objective") or {}).get("weights"),
        constraints=payload.get("constraints") or {},
        tokens_available=available,
    )


def _fit_and_solve(context: JobContext, problem: Problem, evidence: Evidence) -> str:
    chosen = law(problem.law)
    fitted = fit(chosen, evidence.observations)
    context.progress("solve", 0.99)
    objective = Objective(weights=problem.weights, step=problem.step)
    solution = solve(fitted, objective, constraints_of(problem))
    path = _keep(context, evidence.observations)
    record = context.ledger.add_mixture(
        corpus_id=context.job.payload.get("corpus_id"),
        job_id=context.job.id,
        parent_id=None,
        proportions=dict(solution.mixture.proportions),
        fit=fitted.to_dict(),
        report={
            "objective": {"weights": problem.weights},
            "constraints": dict(problem.constraints),
            "budget_tokens": problem.budget_tokens,
            "tokens_per_step": problem.tokens_per_step,
            "tokens_available": problem.tokens_available,
            "step": problem.step,
            "predicted_nats": dict(solution.predicted_nats),
            "solution": solution.to_dict(),
            "references": _references(fitted, problem, evidence.references),
            "heldout_mre_percent": heldout_mre_percent(chosen, evidence.observations),
            "seed_noise_nats": seed_noise(evidence.observations),
            "proxy_runs": evidence.proxy_runs,
            "observations_file": str(path),
        },
    )
    return record.id


def constraints_of(problem: Problem) -> Constraints:
    """The constraints of a problem, with its budget and the tokens there are."""
    return Constraints(
        lower=problem.constraints.get("lower") or {},
        upper=problem.constraints.get("upper") or {},
        max_epochs=problem.constraints.get("max_epochs"),
        budget_tokens=problem.budget_tokens,
        tokens_available=problem.tokens_available or {},
    )


def _references(
    fitted: Fit, problem: Problem, mixtures: Mapping[str, Mixture]
) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "proportions": dict(mixture.proportions),
            "predicted_nats": fitted.predict(mixture, problem.step),
        }
        for name, mixture in mixtures.items()
    }


def _keep(context: JobContext, observations: Observations) -> Path:
    folder = context.settings.home / "observations"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{context.job.id}.parquet"
    tables.write_table(observations, path)
    return path
