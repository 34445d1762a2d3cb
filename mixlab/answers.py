"""A question answered by a fit: the mixture, what it promises, and how far to believe that."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from mixlab.design import NextRuns, next_runs
from mixlab.errors import InvalidInput
from mixlab.fitting import Fit
from mixlab.mixture import Mixture
from mixlab.predictions import Prediction, predictions
from mixlab.questions import Question
from mixlab.runs import Observations
from mixlab.solvers import Promise, Regret, Solution, promise, regret


@dataclass(frozen=True)
class Answer:
    """A solution with 95% prediction intervals, and what the bootstrap says of it."""

    solution: Solution
    predictions: Mapping[str, Prediction]  # of targets whose law is defined at the mixture
    promise: Promise  # the objective and gains over references, with the law's own error
    regret: Regret | None  # None without replicates, or for laws without slopes
    next_runs: NextRuns | None  # None where none were asked for, or none can be told
    notes: tuple[str, ...]  # why something is missing

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {
            "solution": self.solution.to_dict(),
            "predictions": {name: one.to_dict() for name, one in self.predictions.items()},
            "promise": self.promise.to_dict(),
            "regret": None if self.regret is None else self.regret.to_dict(),
            "next_runs": None if self.next_runs is None else self.next_runs.to_dict(),
        }


def answered(
    fit: Fit,
    question: Question,
    *,
    observations: Observations | None = None,
    next_count: int = 0,
    references: Mapping[str, Mixture] | None = None,
) -> Answer:
    """The best mixture under the question's objective and constraints.

    `observations`, those fitted, let `next_count` runs be proposed. Gains are over `references` and
    the uniform mixture. Raises as `mixlab.solvers.solve`; what else can't be told is missing, and a
    note says why.
    """
    solution = question.solved(fit)
    found = predictions(fit, solution.mixture, question.step, params=question.params)
    notes: list[str] = []
    told = _regret(fit, question, solution, notes)
    others = {"uniform": Mixture.uniform(list(fit.domains)), **(references or {})}
    return Answer(
        solution=solution,
        predictions=found,
        promise=promise(
            fit, question.objective_for(fit), solution.mixture, others,
            constraints=question.limits(), regret=told,
        ),
        regret=told,
        next_runs=_next_runs(fit, question, observations, next_count, notes),
        notes=tuple(notes),
    )  # fmt: skip


def _regret(fit: Fit, question: Question, solution: Solution, notes: list[str]) -> Regret | None:
    if any(one.replicates is None for one in fit.targets.values()):
        return None
    try:
        return regret(fit, question.objective_for(fit), question.limits(), solution)
    except InvalidInput as error:
        notes.append(f"the solution's regret is not known: {error}")
        return None


def _next_runs(
    fit: Fit, question: Question, observations: Observations | None, count: int, notes: list[str]
) -> NextRuns | None:
    if observations is None or count < 1:
        return None
    objective, limits = question.objective_for(fit), question.limits()
    try:
        return next_runs(fit, observations, objective, limits, count=count)
    except InvalidInput as error:
        notes.append(f"no next runs are proposed: {error}")
        return None


def heldout_errors(fit: Fit) -> dict[str, float]:
    """Mean relative error in percent on mixtures left out of the fit, per target that has one."""
    return {
        name: one.heldout.mre_percent
        for name, one in fit.targets.items()
        if one.heldout is not None and isfinite(one.heldout.mre_percent)
    }
