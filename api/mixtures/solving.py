"""Solve a mixture's fit again, under another budget, objective or constraints.

Loads SciPy, so routes import this module on first use.
"""

from collections.abc import Mapping
from typing import Any

from api.mixtures.checks import check_weights, library_constraints
from api.mixtures.schemas import ConstraintsBody, SolveBody
from mixlab.errors import NotReady
from mixlab.fitting import Fit
from mixlab.ledger.records import MixtureRecord
from mixlab.mixture import checked_budget
from mixlab.solvers import Objective, solve


def solve_again(body: SolveBody, parent: MixtureRecord) -> tuple[dict[str, float], dict[str, Any]]:
    """Proportions and report of the new mixture.

    Raises NotReady where the mixture has no fit, InfeasibleConstraints where nothing obeys.
    """
    if parent.fit is None:
        raise NotReady(
            f"Mixture {parent.id} was registered, not fitted, so there is nothing to solve "
            "again; POST /mixtures/fit makes a fit."
        )
    fit = Fit.from_dict(dict(parent.fit))
    problem = _problem(body, parent.report)
    constraints = ConstraintsBody(**problem["constraints"])
    weights = problem["objective"]["weights"]
    check_weights(weights, list(fit.targets))
    solution = solve(
        fit,
        Objective(weights=weights, step=problem["step"]),
        library_constraints(constraints, problem["budget_tokens"], problem["tokens_available"]),
    )
    answer = {"predicted_nats": dict(solution.predicted_nats), "solution": solution.to_dict()}
    return dict(solution.mixture.proportions), {**problem, **answer}


def _problem(body: SolveBody, report: Mapping[str, Any]) -> dict[str, Any]:
    """The parent's problem with what the body changes."""
    budget = checked_budget(
        report["budget_tokens"] if body.budget_tokens is None else body.budget_tokens
    )
    objective = body.objective.model_dump() if body.objective else dict(report["objective"])
    constraints = body.constraints.model_dump() if body.constraints else dict(report["constraints"])
    return {
        "objective": objective,
        "constraints": constraints,
        "budget_tokens": budget,
        "tokens_per_step": report["tokens_per_step"],
        "tokens_available": body.tokens_available or report["tokens_available"],
        "step": budget / report["tokens_per_step"],
    }
