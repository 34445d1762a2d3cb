"""Solvers: a fit, an objective and constraints in, a Solution out."""

from mixlab.solvers.constraints import DEFAULT_LOWER, DEFAULT_MAX_EPOCHS, Constraints
from mixlab.solvers.mixing import ActiveConstraint, Objective, Solution, SolutionStatus, solve

__all__ = [
    "DEFAULT_LOWER",
    "DEFAULT_MAX_EPOCHS",
    "ActiveConstraint",
    "Constraints",
    "Objective",
    "Solution",
    "SolutionStatus",
    "solve",
]
