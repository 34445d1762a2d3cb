"""What is fitted to the log residuals that a law leaves: a Gaussian process, or trees.

residual = log observed - log predicted
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mixlab.fitting.intervals import Residual
from mixlab.fitting.problem import Problem
from mixlab.fitting.process import Process, fit_process
from mixlab.fitting.trees import Trees, fit_trees
from mixlab.laws.law import Mask
from mixlab.mixture import Array


def fit_residual(
    problem: Problem, values: Array, clusters: np.ndarray, *,
    rows: Mask | None = None, like: Residual | None = None,
) -> Residual | None:  # fmt: skip
    """What the problem's law wants fitted on top of it, by default to all rows.

    `like` is the residual of all rows, where this one leaves some out.
    """
    law = problem.law
    if law.residual is None:
        return None
    kept = np.ones(len(problem.losses), dtype=bool) if rows is None else rows
    inputs, misses = problem.inputs.take(kept), -problem.residuals(values)[kept]
    if law.residual == "trees":
        return fit_trees(inputs, misses)
    whole = like if isinstance(like, Process) else None
    return fit_process(law, values, inputs, misses, clusters[kept], like=whole)


def residual_from_dict(data: Mapping[str, Any]) -> Residual:
    """What a residual's `to_dict` wrote."""
    return Trees.from_dict(data) if data["kind"] == "trees" else Process.from_dict(data)
