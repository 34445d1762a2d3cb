"""Solvers: a fit, an objective and constraints in, a Solution out."""

from mixlab.solvers.constraints import DEFAULT_LOWER, DEFAULT_MAX_EPOCHS, Constraints
from mixlab.solvers.limits import Group, Linear, Near
from mixlab.solvers.mixing import solve
from mixlab.solvers.objective import Objective
from mixlab.solvers.repetition import Repetition
from mixlab.solvers.solution import ActiveConstraint, Price, Solution, SolutionStatus

__all__ = [
    "DEFAULT_LOWER",
    "DEFAULT_MAX_EPOCHS",
    "ActiveConstraint",
    "Constraints",
    "Group",
    "Linear",
    "Near",
    "Objective",
    "Price",
    "Repetition",
    "Solution",
    "SolutionStatus",
    "solve",
]
