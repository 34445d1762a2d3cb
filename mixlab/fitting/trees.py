"""Boosted trees on the log residuals of a law: RegMix's regressor.

    log loss = log law(r, s, N) + sum of 1000 small trees over (r, log s, log N)

Source: RegMix, arXiv 2407.01492, and its published notebook (sail-sg/regmix,
regression_fitting/regression.ipynb): squared error, learning rate 0.01, 1000 rounds, seed 42,
LightGBM's defaults elsewhere (31 leaves, 20 rows a leaf). The notebook stops early by the very
runs that it scores; here all rounds are kept, which cost nothing on their table: with 64, 128
and 512 runs a mean error of 3.9, 2.2 and 1.1% of the held-out 1M runs, early stop or not.

Limits: piecewise constant, so it has no gradient and stays level outside the shares seen; needs
hundreds of runs. LightGBM is an extra, and imported only here, when trees are grown or read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mixlab.errors import MissingExtra
from mixlab.laws.law import Inputs
from mixlab.mixture import Array

ROUNDS = 1000
# One thread and no choice of layout by timing: the same table grows the same trees.
SETTINGS = {
    "objective": "regression",
    "learning_rate": 0.01,
    "seed": 42,
    "num_threads": 1,
    "deterministic": True,
    "force_col_wise": True,
    "verbosity": -1,
}


@dataclass(frozen=True)
class Trees:
    """Grown trees, as LightGBM's own text."""

    model: str

    smooth = False  # no gradient: solvers must sample

    @cached_property
    def _booster(self) -> Any:
        return _lightgbm().Booster(model_str=self.model)

    def predict(self, inputs: Inputs) -> tuple[Array, Array]:
        """Mean of the log residual and its standard deviation, each (row,).

        The latter is 0: trees don't know where they are unsure; held-out errors tell how far off
        they are.
        """
        mean = np.asarray(self._booster.predict(_columns(inputs), num_threads=1), dtype=float)
        return mean, np.zeros_like(mean)

    def share_gradient(self, inputs: Inputs) -> Array:
        """Derivatives by the shares, (row, domain): 0, as a step function's almost everywhere."""
        return np.zeros_like(inputs.proportions)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form that `from_dict` reads back."""
        return {"kind": "trees", "model": self.model}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Trees":
        """What `to_dict` wrote."""
        return cls(model=str(data["model"]))


def fit_trees(inputs: Inputs, log_residuals: Array) -> Trees:
    """Trees grown on log residuals (row,). Raises MissingExtra where LightGBM is not installed."""
    lightgbm = _lightgbm()
    rows = lightgbm.Dataset(_columns(inputs), log_residuals, params={"verbosity": -1})
    return Trees(model=lightgbm.train(SETTINGS, rows, ROUNDS).model_to_string())


def _columns(inputs: Inputs) -> Array:
    """Shares, log step and log size, (row, feature); unknown sizes count as one size."""
    sizes = np.where(np.isnan(inputs.params), 1.0, inputs.params)
    return np.column_stack([inputs.proportions, np.log(inputs.steps), np.log(sizes)])


def _lightgbm() -> Any:
    try:
        import lightgbm
    except ImportError as error:
        raise MissingExtra(
            f"Trees need the package lightgbm, which is not installed ({error}); "
            "install it with: pip install 'mixlab[trees]'"
        ) from error
    return lightgbm
