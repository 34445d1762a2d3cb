"""Refits without some of the rows, all in one batch, and how well they predict those.

Whole mixtures are left out for the intervals' calibration, the largest model size and the latest
steps for what lies beyond. Each search starts from the estimate on all rows, with its
strength: the rows left out have had a say in that, and in nothing else.
"""

from dataclasses import dataclass, replace

import numpy as np

from mixlab.fitting.intervals import Residual
from mixlab.fitting.least_squares import Estimate
from mixlab.fitting.penalty import parts, without
from mixlab.fitting.problem import Problem
from mixlab.fitting.residual import fit_residual
from mixlab.fitting.search import Members, minimise
from mixlab.laws.law import Mask
from mixlab.mixture import Array

FEWEST_MIXTURES = 3
EARLY = 0.75  # of the range of log steps; later ones are left out to see what lies beyond
ITERATIONS = 25
TOLERANCE = 1e-5


@dataclass(frozen=True)
class LeftOut:
    """What the refits say of the rows that they had not seen."""

    errors: Array  # (row,), log predicted minus log observed; NaN where never predicted
    residual_variances: Array  # (row,), of what is fitted to the residuals
    folds: int
    per_size: float | None
    per_step: float | None


def left_out(
    problem: Problem, found: Estimate, clusters: np.ndarray, like: Residual | None
) -> LeftOut | None:
    """Refits without each part of the mixtures, the largest size and the latest steps.

    `like` is what was fitted to the residuals of all rows.
    """
    if len(np.unique(clusters)) < FEWEST_MIXTURES:
        return None
    part = parts(clusters)
    folds = without(part)
    ends = {"size": _largest(problem), "step": _latest(problem)}
    asked = [end for end in ends.values() if end is not None]
    weights = np.concatenate([folds, *(~beyond[None, :] for beyond, _ in asked)])
    refits = refitted(problem, found, weights.astype(float))
    errors, variances = np.full((2, len(part)), np.nan)
    for values, fold in zip(refits, folds > 0, strict=False):
        errors[~fold], variances[~fold] = _missed(problem, values, clusters, fold, like)
    rates: dict[str, float | None] = dict.fromkeys(ends)
    spread = float(np.mean(errors[np.isfinite(errors)] ** 2))
    last = iter(refits[len(folds) :])
    for name, end in ends.items():
        if end is not None:
            missed, _ = _missed(problem, next(last), clusters, ~end[0], like)
            rates[name] = _rate(missed, end[1], spread)
    return LeftOut(errors, variances, len(folds), rates["size"], rates["step"])


def refitted(problem: Problem, found: Estimate, weights: Array) -> Array:
    """Values refitted under each of the row weights (member, row), (member, parameter)."""
    members = replace(
        Members.of(
            np.repeat(found.values[None, :], len(weights), axis=0),
            scale=found.scale,
            pull=found.pull,
        ),
        weights=weights,
    )
    return minimise(
        problem, found.free, members, robust=found.robust, tolerance=TOLERANCE,
        iterations=ITERATIONS,
    ).values  # fmt: skip


def _missed(
    problem: Problem, values: Array, clusters: np.ndarray, rows: Mask, like: Residual | None
) -> tuple[Array, Array]:
    """Log errors on the rows not kept, and the variance of what is fitted to the residuals."""
    with np.errstate(all="ignore"):
        errors = problem.residuals(values)[~rows]
    residual = fit_residual(problem, values, clusters, rows=rows, like=like)
    if residual is None:
        return errors, np.zeros(len(errors))
    mean, deviation = residual.predict(problem.inputs.take(~rows))
    return errors + mean, deviation**2


def _rate(errors: Array, reach: Array, spread: float) -> float | None:
    """Error in log loss per e-fold beyond what was kept, over what mixtures explain."""
    if not np.all(np.isfinite(errors)):
        return None
    excess = max(0.0, float(np.mean(errors**2)) - spread)
    return float((excess / np.mean(reach**2)) ** 0.5)


def _largest(problem: Problem) -> tuple[Mask, Array] | None:
    """Rows of the largest model size, where two smaller ones remain to extrapolate from.

    And how far each of them, in the logarithm, lies beyond the others.
    """
    sizes = problem.inputs.params
    if not problem.law.needs_params or not np.all(np.isfinite(sizes)):
        return None
    known = _distinct(np.log(sizes))
    if len(known) < 3:
        return None
    beyond = np.log(sizes) > (known[-2] + known[-1]) / 2
    return beyond, np.log(sizes[beyond]) - known[-2]


def _latest(problem: Problem) -> tuple[Mask, Array] | None:
    """Rows of the latest steps, where three earlier ones remain to extrapolate from."""
    logs = np.log(problem.inputs.steps)
    known = _distinct(logs)
    late = logs > known[0] + EARLY * (known[-1] - known[0])
    if len(known) < 4 or len(_distinct(logs[~late])) < 3:
        return None
    return late, logs[late] - logs[~late].max()


def _distinct(logs: Array) -> Array:
    return np.unique(np.round(logs, 6))
