"""Linear programs, by SciPy's HiGHS.

minimise  cost . x   over   matrix x <= limits,  equal x = values,  bounds
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linprog

from mixlab.mixture import Array

# HiGHS's own 1e-7 is above the gap that solutions are certified to.
TIGHT = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}

Bounds = Sequence[tuple[float | None, float | None]]


@dataclass(frozen=True)
class Optimum:
    """The least cost, where, and what a unit of each limit is worth (at most 0)."""

    cost: float
    point: Array
    prices: Array


def minimise(
    cost: Array, matrix: Array, limits: Array, equal: Array, values: Array, bounds: Bounds
) -> Optimum | None:
    """The optimum; None where nothing is feasible or the cost has no least."""
    options: Any = TIGHT
    found: Any = linprog(
        cost, matrix, limits, equal, values, bounds=list(bounds), method="highs", options=options
    )
    if found.x is None or found.status != 0:
        return None
    return Optimum(float(found.fun), np.asarray(found.x), np.asarray(found.ineqlin.marginals))
