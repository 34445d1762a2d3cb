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
from mixlab.answers import answered, heldout_errors
from mixlab.choosing import Choice, choose, fit_auto
from mixlab.corpora.shards import TokenisedCorpus
from mixlab.design import design_mixtures
from mixlab.diagnostics import seed_noise
from mixlab.entropy.weighting import softmax_mixture
from mixlab.errors import DomainTooSmall
from mixlab.fitting import Fit, fit
from mixlab.laws import AUTO, law
from mixlab.mixture import Mixture
from mixlab.predictions import predictions
from mixlab.questions import Question, constraints_from
from mixlab.recipes import recipe
from mixlab.runs import Observations
from mixlab.solvers import Constraints, Solution
from workers.jobs.context import JobContext
from workers.jobs.evidence import Evidence, evidence_of
from workers.jobs.proxies import Proxy, collect, submit_missing
from workers.jobs.waiting import measured

NEXT_RUNS = 4  # that a report proposes


@dataclass(frozen=True)
class Problem:
    """What is to be solved once there are observations."""

    law: str
    replicates: int
    budget_tokens: int
    params: float | None
    tokens_per_step: int | None  # None where the fit counts tokens
    objective: Mapping[str, Any]
    constraints: Mapping[str, Any]
    tokens_available: Mapping[str, int] | None

    def question(self, fitted: Fit) -> Question:
        """The problem at the step of the fit where the budget is spent."""
        return Question(
            step=fitted.step_at(self.budget_tokens, self.tokens_per_step),
            budget_tokens=self.budget_tokens,
            params=self.params,
            tokens_available=self.tokens_available,
            objective=self.objective,
            constraints=self.constraints,
        )


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
    return evidence_of(ended, str(context.job.payload["law"]), _train_tokens(context), references)


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
        replicates=int(payload.get("replicates") or 0),
        budget_tokens=int(payload["budget_tokens"]),
        params=payload.get("params"),
        tokens_per_step=payload["tokens_per_step"],
        objective=payload.get("objective") or {},
        constraints=payload.get("constraints") or {},
        tokens_available=available,
    )


def _fit_and_solve(context: JobContext, problem: Problem, evidence: Evidence) -> str:
    fitted, choice = _fitted(problem, evidence.observations)
    context.progress("solve", 0.99)
    question = problem.question(fitted)
    answer = answered(
        fitted, question, observations=evidence.observations, next_count=NEXT_RUNS,
        references=evidence.references,
    )  # fmt: skip
    path = _keep(context, evidence.observations)
    record = context.ledger.add_mixture(
        corpus_id=context.job.payload.get("corpus_id"),
        job_id=context.job.id,
        parent_id=None,
        proportions=dict(answer.solution.mixture.proportions),
        fit=fitted.to_dict(),
        report={
            "objective": dict(problem.objective),
            "constraints": dict(problem.constraints),
            "budget_tokens": problem.budget_tokens,
            "params": problem.params,
            "tokens_per_step": problem.tokens_per_step,
            "tokens_available": problem.tokens_available,
            "step": question.step,
            "predicted_nats": dict(answer.solution.predicted_nats),
            **answer.to_dict(),
            "prediction_errors_nats": _prediction_errors(fitted, answer.solution, problem.params),
            "references": _references(fitted, question, evidence.references),
            "choice": None if choice is None else choice.to_dict(),
            "heldout_mre_percent": heldout_errors(fitted),
            "seed_noise_nats": seed_noise(evidence.observations),
            "proxy_runs": evidence.proxy_runs,
            "notes": [*evidence.notes, *_fit_notes(fitted, choice), *answer.notes],
            "observations_file": str(path),
        },
    )
    return record.id


def _fitted(problem: Problem, observations: Observations) -> tuple[Fit, Choice | None]:
    """The fit, and with law "auto" how each target's law was chosen."""
    if problem.law != AUTO:
        return fit(law(problem.law), observations, replicates=problem.replicates), None
    choice = choose(observations)
    return fit_auto(observations, choice=choice, replicates=problem.replicates), choice


def _fit_notes(fitted: Fit, choice: Choice | None) -> list[str]:
    """The fit's notes without the reasons of choices, which stand in a place of their own."""
    chosen = {} if choice is None else choice.targets
    reasons = {f"{name}: {one.reason}" for name, one in chosen.items()}
    return [note for note in fitted.notes if note not in reasons]


def _prediction_errors(
    fitted: Fit, solution: Solution, params: float | None
) -> dict[str, float | None]:
    """Standard errors of the solution's predictions, of targets that it predicts."""
    given = [name for name in fitted.targets if name in solution.predicted_nats]
    return fitted.prediction_errors(solution.mixture, solution.step, params=params, targets=given)


def constraints_of(problem: Problem) -> Constraints:
    """The constraints of a problem, with its budget and the tokens there are."""
    return constraints_from(problem.constraints, problem.budget_tokens, problem.tokens_available)


def _references(
    fitted: Fit, question: Question, mixtures: Mapping[str, Mixture]
) -> dict[str, dict[str, Any]]:
    found = {}
    for name, mixture in mixtures.items():
        predicted = predictions(fitted, mixture, question.step, params=question.params)
        found[name] = {
            "proportions": dict(mixture.proportions),
            "predicted_nats": {target: one.nats for target, one in predicted.items()},
            "predictions": {target: one.to_dict() for target, one in predicted.items()},
        }
    return found


def _keep(context: JobContext, observations: Observations) -> Path:
    folder = context.settings.home / "observations"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{context.job.id}.parquet"
    tables.write_table(observations, path)
    return path
