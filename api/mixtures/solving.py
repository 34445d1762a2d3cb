"""Ask a mixture's fit again: solve, predict, propose runs.

Loads SciPy, so routes import this module on first use.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from api.mixtures.checks import check_feasible, check_objective
from api.mixtures.questions import ConstraintsBody, ObjectiveBody
from api.mixtures.schemas import DesignRequest, DesignView, PredictBody, PredictedView, SolveBody
from mixlab.answers import answered
from mixlab.corpora.reading.paths import PathPolicy
from mixlab.design import filling_mixtures, next_runs
from mixlab.errors import InvalidMixture, MissingFile, NotReady, PathNotAllowed
from mixlab.fitting import Fit
from mixlab.ledger.records import MixtureRecord
from mixlab.mixture import Mixture, checked_budget
from mixlab.predictions import notes_on, predictions
from mixlab.questions import Question
from mixlab.tables import read_table


def solve_again(body: SolveBody, parent: MixtureRecord) -> tuple[dict[str, float], dict[str, Any]]:
    """Proportions and report of the new mixture.

    Raises NotReady where the mixture has no fit, InfeasibleConstraints where nothing obeys.
    """
    fit = fit_of(parent)
    problem = _problem(body, parent.report)
    check_objective(ObjectiveBody(**problem["objective"]), list(fit.targets), list(fit.domains))
    question = question_of(problem, fit)
    check_feasible(
        ConstraintsBody(**problem["constraints"]), fit.domains, problem["budget_tokens"],
        problem["tokens_available"],
    )  # fmt: skip
    references = {name: Mixture(one) for name, one in problem["reference_mixtures"].items()}
    answer = answered(fit, question, references=references)
    report = {
        **problem,
        "step": question.step,
        "predicted_nats": dict(answer.solution.predicted_nats),
        **answer.to_dict(),
        "notes": list(answer.notes),
    }
    return dict(answer.solution.mixture.proportions), report


def predict(body: PredictBody, record: MixtureRecord) -> PredictedView:
    """Losses of a run by the mixture's fit. Raises NotReady where it has none."""
    fit, report = fit_of(record), record.report
    mixture = Mixture(record.proportions if body.proportions is None else body.proportions)
    step = body.step
    if step is None:
        budget = report["budget_tokens"] if body.budget_tokens is None else body.budget_tokens
        step = fit.step_at(checked_budget(budget), report.get("tokens_per_step"))
    params = report.get("params") if body.params is None else body.params
    found = predictions(fit, mixture, step, params=params)
    return PredictedView(
        mixture_id=record.id,
        proportions=dict(mixture.proportions),
        step=step,
        step_unit=fit.step_unit,
        params=params,
        predictions={name: one.to_dict() for name, one in found.items()},
        notes=notes_on(fit, mixture, step, found, params=params),
    )  # fmt: skip


def propose(body: DesignRequest, record: MixtureRecord, home: Path) -> DesignView:
    """The next runs that tell the optimum of a mixture's fit best.

    Raises NotReady where the mixture has no fit, or its observations are gone.
    """
    fit, report = fit_of(record), dict(record.report)
    path = _observations(record, home)
    changes = SolveBody(
        mixture_id=record.id, budget_tokens=body.budget_tokens, constraints=body.constraints,
        tokens_available=body.tokens_available,
    )  # fmt: skip
    question = question_of(_problem(changes, report), fit)
    found = next_runs(
        fit, read_table(path), question.objective_for(fit), question.limits(),
        count=body.count, seed=body.seed,
    )  # fmt: skip
    return DesignView(
        mixtures={label: dict(one.proportions) for label, one in found.mixtures.items()},
        step=found.step,
        params=found.params,
        expected_regret_nats=found.expected_regret_nats,
        expected_regret_after_nats=found.expected_regret_after_nats,
    )


def _observations(record: MixtureRecord, home: Path) -> str:
    """Where a mixture's observations lie: in the home folder, whatever its row says."""
    try:
        return PathPolicy((home,)).check(str(record.report["observations_file"]))
    except (KeyError, MissingFile, PathNotAllowed):
        raise NotReady(
            f"The observations of mixture {record.id} are not here, and the next runs depend on "
            "them; POST /mixtures/fit makes a mixture with them."
        ) from None


def first_runs(
    body: DesignRequest, domains: list[str], tokens_available: Mapping[str, int] | None
) -> DesignView:
    """Mixtures that fill what the constraints allow. Raises as `filling_mixtures`."""
    if len(set(domains)) < len(domains):
        raise InvalidMixture("The domains name one twice; each stands for one share.")
    budget = None if body.budget_tokens is None else checked_budget(body.budget_tokens)
    # Without a budget, counts of tokens cap nothing.
    available = (body.tokens_available or tokens_available) if budget is not None else None
    constraints = check_feasible(body.constraints or ConstraintsBody(), domains, budget, available)
    found = filling_mixtures(domains, count=body.count, constraints=constraints, seed=body.seed)
    return DesignView(
        mixtures={label: dict(one.proportions) for label, one in found.items()},
        step=None,
        params=None,
        expected_regret_nats=None,
        expected_regret_after_nats=None,
    )


def fit_of(record: MixtureRecord) -> Fit:
    """The fit of a mixture. Raises NotReady where it has none."""
    if record.fit is None:
        raise NotReady(
            f"Mixture {record.id} was registered, not fitted, so there is no fit to ask; POST "
            "/mixtures/fit makes one."
        )
    return Fit.from_dict(dict(record.fit))


def question_of(problem: Mapping[str, Any], fit: Fit) -> Question:
    """The library's form of a problem, its step where the budget is spent."""
    return Question(
        step=fit.step_at(problem["budget_tokens"], problem["tokens_per_step"]),
        budget_tokens=problem["budget_tokens"],
        params=problem["params"],
        tokens_available=problem["tokens_available"],
        objective=problem["objective"],
        constraints=problem["constraints"],
    )


def _problem(body: SolveBody, report: Mapping[str, Any]) -> dict[str, Any]:
    """The parent's problem with what the body changes."""
    budget = checked_budget(
        report["budget_tokens"] if body.budget_tokens is None else body.budget_tokens
    )
    objective = body.objective.model_dump() if body.objective else dict(report["objective"])
    references = {
        name: one["proportions"] for name, one in (report.get("references") or {}).items()
    }
    constraints = body.constraints.model_dump() if body.constraints else dict(report["constraints"])
    return {
        "objective": objective,
        "constraints": constraints,
        "budget_tokens": budget,
        "params": report.get("params") if body.params is None else body.params,
        "tokens_per_step": report["tokens_per_step"],
        "tokens_available": body.tokens_available or report["tokens_available"],
        "observations_file": report.get("observations_file"),
        "reference_mixtures": report.get("reference_mixtures") or references,
    }
