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
from mixlab.errors import DomainTooSmall
from mixlab.fitting import Fit, fit
from mixlab.laws import law
from mixlab.mixture import Mixture
from mixlab.recipes import recipe
from mixlab.runs import Observations
from mixlab.solvers import Constraints, Objective, Solution, solve
from workers.jobs.context import JobContext
from workers.jobs.evidence import Evidence, evidence_of
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


def run(context: JobContext) -> Mapping[str, Any] | None:
    """Do the stages that are missing; None while child jobs are under way."""
    payload = context.job.payload
    if payload.get("observations") is not None:
        evidence: Evidence | None = Evidence(tables.from_rows(payload["observations"]))
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
    ended = collect(context, wanted)
    return evidence_of(
        ended, law(str(context.job.payload["law"])), _train_tokens(context), references
    )


def _check_before_training(context: JobContext) -> None:
    """Raise now what would otherwise show once all proxy runs are trained.

    DomainTooSmall for a domain that the recipe can't cut a sequence from, and
    InfeasibleConstraints where the token counts, known only now, leave no mixture.
    """
    context_tokens = recipe(str(context.job.payload["recipe"])).architecture.context
    counts = _train_tokens(context)
    small = [f"{domain!r} ({n})" for domain, n in counts.items() if n <= context_tokens]
    if small:
        raise DomainTooSmall(
            f"Too few training tokens for one sequence of {context_tokens} and its target: "
            f"{', '.join(small)}. Add text, or leave such domains out of the corpus."
        )
    constraints_of(_problem(context)).bounds(list(counts))


def _train_tokens(context: JobContext) -> dict[str, int]:
    """Training tokens of the measured corpus by domain."""
    tokens = context.ledger.corpus(str(context.job.payload["corpus_id"])).tokens or {}
    return {domain: int(counts["train_tokens"]) for domain, counts in tokens.items()}


def reference_mixtures(context: JobContext) -> dict[str, Mixture]:
    """Natural, uniform and conditional-entropy mixtures of the job's corpus."""
    corpus = context.ledger.corpus(str(context.job.payload["corpus_id"]))
    tokens, entropy = _train_tokens(context), corpus.entropy or {}
    return {
        "natural": Mixture.normalised(tokens),
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


def _problem(context: JobContext) -> Problem:
    payload = context.job.payload
    available = payload.get("tokens_available")
    if available is None and payload.get("corpus_id"):
        available = _train_tokens(context)
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
            "prediction_errors_nats": _prediction_errors(fitted, solution),
            "solution": solution.to_dict(),
            "references": _references(fitted, problem, evidence.references),
            "heldout_mre_percent": heldout_mre_percent(chosen, evidence.observations),
            "seed_noise_nats": seed_noise(evidence.observations),
            "proxy_runs": evidence.proxy_runs,
            "notes": evidence.notes,
            "observations_file": str(path),
        },
    )
    return record.id


def _prediction_errors(fitted: Fit, solution: Solution) -> dict[str, float | None]:
    """Standard errors of the solution's predictions, of targets whose domain has a share."""
    given = [name for name, share in solution.mixture if share > 0 and name in fitted.targets]
    return fitted.prediction_errors(solution.mixture, solution.step, targets=given)


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
