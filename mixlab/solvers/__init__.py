"""Solvers: a fit, an objective and constraints in, a Solution out."""

from mixlab.solvers.constraints import DEFAULT_LOWER, DEFAULT_MAX_EPOCHS, Constraints
from mixlab.solvers.limits import Group, Linear, Near
from mixlab.solvers.mixing import solve
from mixlab.solvers.objective import Objective
from mixlab.solvers.pareto import ParetoPoint, pareto
from mixlab.solvers.promise import Gain, Promise, promise
from mixlab.solvers.regret import Difference, Regret, difference, regret
from mixlab.solvers.repetition import Repetition
from mixlab.solvers.solution import ActiveConstraint, Price, Solution, SolutionStatus

__all__ = [
    "DEFAULT_LOWER",
    "DEFAULT_MAX_EPOCHS",
    "ActiveConstraint",
    "Constraints",
    "Difference",
    "Gain",
    "Group",
    "Linear",
    "Near",
    "Objective",
    "ParetoPoint",
    "Price",
    "Promise",
    "Regret",
    "Repetition",
    "Solution",
    "SolutionStatus",
    "difference",
    "pareto",
    "promise",
    "regret",
    "solve",
]
