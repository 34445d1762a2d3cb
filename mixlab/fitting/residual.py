"""What is fitted to a law's log residuals: checkpoints' effects and a process, or trees.

residual = log observed - log predicted
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixlab.fitting.checkpoints import NONE, Checkpoints, fit_checkpoints
from mixlab.fitting.intervals import Residual
from mixlab.fitting.problem import Problem
from mixlab.fitting.process import Process, fit_process
from mixlab.fitting.trees import Trees, fit_trees
from mixlab.laws import Inputs
from mixlab.laws.law import Mask
from mixlab.mixture import Array


@dataclass(frozen=True)
class Layers:
    """What all runs share at a checkpoint, and a process on what that leaves."""

    checkpoints: Checkpoints
    process: Process

    smooth = True

    @property
    def used(self) -> bool:
        """False where neither helps on mixtures that were left out."""
        return self.checkpoints.used or self.process.used

    @property
    def convex(self) -> bool:
        """Whether a convex law stays so: a checkpoint's effect is the same for all mixtures."""
        return not self.process.used

    def predict(self, inputs: Inputs) -> tuple[Array, Array]:
        """Mean and standard deviation in log loss, (row,) each."""
        mean, deviation = self.process.predict(inputs)
        return self.checkpoints.at(inputs) + mean, deviation

    def share_gradient(self, inputs: Inputs) -> Array:
        """Derivatives of the mean by the shares, (row, domain)."""
        return self.process.share_gradient(inputs)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form that `from_dict` reads back."""
        return self.process.to_dict() | {"checkpoints": self.checkpoints.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Layers":
        """What `to_dict` wrote."""
        checkpoints = Checkpoints.from_dict(data["checkpoints"]) if "checkpoints" in data else NONE
        return cls(checkpoints, Process.from_dict(data))


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
    whole = like if isinstance(like, Layers) else None
    checkpoints = fit_checkpoints(
        inputs, misses, clusters[kept], like=whole.checkpoints if whole else None
    )
    left = misses - checkpoints.at(inputs)
    process = fit_process(
        law, values, inputs, left, clusters[kept], like=whole.process if whole else None
    )
    return Layers(checkpoints, process)


def residual_from_dict(data: Mapping[str, Any]) -> Residual:
    """What a residual's `to_dict` wrote."""
    return Trees.from_dict(data) if data["kind"] == "trees" else Layers.from_dict(data)
