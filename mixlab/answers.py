"""A question answered by a fit: the mixture, what it promises, and how far to believe that."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mixlab.fitting import Fit
from mixlab.predictions import Prediction, predictions
from mixlab.questions import Question
from mixlab.solvers import Solution


@dataclass(frozen=True)
class Answer:
    """A solution with 95% prediction intervals."""

    solution: Solution
    predictions: Mapping[str, Prediction]  # of targets whose law is defined at the mixture

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {
            "solution": self.solution.to_dict(),
            "predictions": {name: one.to_dict() for name, one in self.predictions.items()},
        }


def answered(fit: Fit, question: Question) -> Answer:
    """The best mixture under the question's objective and constraints.

    Raises as `mixlab.solvers.solve`.
    """
    solution = question.solved(fit)
    found = predictions(fit, solution.mixture, question.step, params=question.params)
    return Answer(solution, found)


def heldout_errors(fit: Fit) -> dict[str, float]:
    """Mean relative error in percent on mixtures left out of the fit, per target that has one."""
    return {
        name: one.heldout.mre_percent
        for name, one in fit.targets.items()
        if one.heldout is not None and one.heldout.mre_percent == one.heldout.mre_percent
    }
