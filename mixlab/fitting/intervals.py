"""95% prediction intervals: where a new run's measured loss will lie.

    half width in log loss = quantile * sqrt(misfit^2 + parameters(x)^2 + residual(x)^2
                                             + (per_size * u)^2 + (per_step * v)^2)

`misfit` is what the law misses on left-out mixtures, seeds' noise included, beyond what its
parameters' uncertainty explains; `parameters` that uncertainty at x; `residual` the standard
deviation of what is fitted to the residuals. u and v are how far, in logarithms, model size and
step lie beyond those seen; per_size and per_step are the errors, per such unit, of predicting the
largest size, or the latest steps, from the smaller and earlier ones.

`quantile` is calibrated on the left-out rows: the conformal quantile of |error| over standard
deviation (Vovk et al. 2005; Lei et al. 2018) with mixtures as the units that can be exchanged, and
at least Student's t. Where 0.95 * (mixtures + 1) exceeds the mixtures, Student's t alone decides.

Limits: holds for mixtures like those seen; the extrapolation's growth is a guess from one step of
it within the table.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from scipy.special import stdtrit

from mixlab.laws import Inputs, Law
from mixlab.laws.law import Mask
from mixlab.mixture import Array

LEVEL = 0.95
# Of log loss per e-fold of steps or size, where the table has one step or size only and so can't
# tell: published losses fall by powers up to about 0.2.
UNTOLD_RATE = 0.2
# Of log loss per e-fold of size where the table has two sizes: the parameters' own uncertainty has
# most of it. On Apple's table, 310M to 937M, 0.003 kept 93% of losses.
TWO_SIZES_RATE = 0.01


class Residual(Protocol):
    """What is fitted to the log residuals that a law leaves."""

    def predict(self, inputs: Inputs) -> tuple[Array, Array]:
        """Mean log observed minus log predicted, and its standard deviation, (row,) each."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""


@dataclass(frozen=True)
class HeldOut:
    """Errors on mixtures that the fit had not seen, and the intervals calibrated on them."""

    folds: int
    mixtures: int
    mre_percent: float
    misfit: float  # standard deviation in log loss
    quantile: float  # half width of the 95% interval in standard deviations
    per_size: float | None = None  # error in log loss per e-fold of model size beyond those seen
    per_step: float | None = None  # and of steps

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form that `from_dict` reads back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "HeldOut":
        """What `to_dict` wrote."""
        return cls(**data)


class Measured(Protocol):
    """What an interval needs of one target's fit; TargetFit is such."""

    @property
    def law(self) -> Law: ...
    @property
    def values(self) -> Array: ...
    @property
    def log_covariance(self) -> tuple[tuple[float, ...], ...] | None: ...
    @property
    def noise_percent(self) -> float: ...
    @property
    def heldout(self) -> HeldOut | None: ...
    @property
    def residual(self) -> Residual | None: ...


def calibrated(
    errors: Array, variances: Array, clusters: np.ndarray, *, folds: int, noise: float,
    per_size: float | None = None, per_step: float | None = None,
) -> HeldOut | None:  # fmt: skip
    """From log errors on left-out rows and the variances that the fit foresaw, (row,) each."""
    known = np.isfinite(errors) & np.isfinite(variances)
    errors, variances, clusters = errors[known], variances[known], clusters[known]
    mixtures = len(np.unique(clusters))
    if mixtures < 2:
        return None
    misfit = max(float(np.mean(errors**2) - np.mean(variances)), noise**2, 1e-18) ** 0.5
    ratios = np.abs(errors) / np.sqrt(misfit**2 + variances)
    quantile = float(stdtrit(mixtures - 1, 0.5 + LEVEL / 2)) * (1 + 1 / mixtures) ** 0.5
    level = LEVEL * (mixtures + 1) / mixtures
    if level <= 1:
        quantile = max(quantile, float(np.quantile(ratios, level)))
    mre = 100 * float(np.mean(np.abs(np.expm1(errors))))
    return HeldOut(folds, mixtures, mre, misfit, quantile, per_size, per_step)


def parameter_variances(signed: Mask, found: Measured, inputs: Inputs) -> Array:
    """Variance of log predictions from the parameters' uncertainty, (row,); 0 if unknown."""
    if found.log_covariance is None:
        return np.zeros(len(inputs.steps))
    values = found.values
    slopes = found.law.gradient(values, inputs) * np.where(signed, 1.0, values)
    slopes = slopes / found.law.predict(values, inputs)[:, None]
    return log_variances(slopes, np.array(found.log_covariance))


def log_variances(slopes: Array, covariance: Array) -> Array:
    """Variance of log predictions, (row,), from slopes of them by z, (row, parameter)."""
    spread = np.sum((slopes @ covariance) * slopes, axis=1)
    return np.asarray(np.maximum(0.0, np.nan_to_num(spread)))


def half_widths(
    found: Measured,
    signed: Mask,
    inputs: Inputs,
    steps_seen: tuple[float, float],
    sizes_seen: tuple[float, float] | None,
) -> Array:
    """Half the interval's width in log loss, (row,)."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        variance = parameter_variances(signed, found, inputs)
    if found.residual is not None:
        variance = variance + found.residual.predict(inputs)[1] ** 2
    noise = found.noise_percent / 100
    # Too few mixtures to leave any out: the fit's own residuals, and a wide quantile.
    told = found.heldout or HeldOut(0, 2, float("nan"), noise, float(stdtrit(1, 0.975)))
    variance = variance + told.misfit**2
    variance += (_rate(told.per_step) * _beyond(inputs.steps, steps_seen)) ** 2
    if sizes_seen is not None and found.law.needs_params:
        rate = told.per_size
        if rate is None and sizes_seen[0] < sizes_seen[1]:
            rate = TWO_SIZES_RATE
        variance += (_rate(rate) * _beyond(inputs.params, sizes_seen)) ** 2
    return np.asarray(told.quantile * np.sqrt(variance))


def _rate(told: float | None) -> float:
    return UNTOLD_RATE if told is None else told


def _beyond(values: Array, seen: tuple[float, float]) -> Array:
    """How far, in logarithms, values lie outside those seen, (row,)."""
    logs = np.nan_to_num(np.log(values), nan=np.log(seen[1]))
    outside = np.maximum(logs - np.log(seen[1]), np.log(seen[0]) - logs)
    return np.where(outside > 1e-6, outside, 0.0)
