"""One target's estimate with its errors, its status and its held-out errors as one value."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import numpy as np

from mixlab.errors import InvalidTable
from mixlab.fitting.bootstrap import replicates as bootstrapped
from mixlab.fitting.heldout import left_out
from mixlab.fitting.intervals import Residual, calibrated, log_variances
from mixlab.fitting.least_squares import SMALLEST_SCALE, Estimate, estimate, noise
from mixlab.fitting.problem import Problem
from mixlab.fitting.profile import profiled
from mixlab.fitting.residual import fit_residual
from mixlab.fitting.search import Robust
from mixlab.fitting.target import FitStatus, TargetFit
from mixlab.fitting.uncertainty import Uncertainty, uncertainty, unresolved
from mixlab.mixture import Array

# Shares, steps and sizes closer than this, relatively, are the same value.
SAME = 1e-6


@dataclass(frozen=True)
class Counts:
    """Rows that the fit does not see as they are."""

    excluded_rows: int
    floored_rows: int
    missing_rows: int


def described(
    problem: Problem, target: str, clusters: np.ndarray, counts: Counts, *,
    profiles: bool, replicates: int, robust: Robust | None, heldout: bool,
    given: Mapping[str, float],
) -> TargetFit:  # fmt: skip
    """The fit of one target; `clusters` number each row's mixture."""
    untold = _untold(problem)
    found = estimate(problem, _held(problem, untold, given), clusters, robust=robust)
    known = uncertainty(problem, found, clusters)
    traded = () if untold else unresolved(problem, found)
    residual = fit_residual(problem, found.values, clusters)
    errors, intervals = _intervals(problem, found, known)
    # A penalty's curvature is in the standard errors; a profile would follow the valley it bars.
    vague = profiles and known.kind != "none" and found.scale > SMALLEST_SCALE
    if vague and not problem.shrunk.any():
        intervals |= profiled(problem, found, known)
    covariance = None if known.kind == "none" else known.covariance
    return TargetFit(
        target=target,
        law=problem.law,
        parameters=dict(zip(problem.names, found.values.tolist(), strict=True)),
        source_form={name: value if isfinite(value) else None
                     for name, value in problem.law.source_form(found.values).items()},
        standard_errors=errors,
        interval95=intervals,
        status=_status(found, (*untold, *traded)),
        at_bound=found.at_bound,
        unidentified=(*untold, *traded),
        reason=_reason(found, untold.values(), traded),
        error_kind=known.kind,
        log_covariance=None if covariance is None else tuple(map(tuple, covariance.tolist())),
        noise_percent=100 * noise(problem, found),
        **_closeness(problem, found, residual),
        mixtures=len(np.unique(clusters)),
        **asdict(counts),
        strength=None if found.choice is None else found.choice.strength,
        **(_heldout(problem, found, clusters, residual, covariance) if heldout else {}),
        residual=residual if getattr(residual, "used", True) else None,
        replicates=bootstrapped(problem, found, clusters, replicates) if replicates else None,
    )  # fmt: skip


def _closeness(problem: Problem, found: Estimate, residual: Residual | None) -> dict[str, Any]:
    """The fields of a TargetFit that tell of the rows fitted to."""
    misses = problem.residuals(found.values)
    if residual is not None:
        misses = misses + residual.predict(problem.inputs)[0]
    total = float(np.sum((problem.log_losses - problem.log_losses.mean()) ** 2))
    return {
        "r2_log_loss": 1 - float(np.sum(misses**2)) / total if total > 0 else None,
        "train_mre_percent": 100 * float(np.mean(np.abs(np.expm1(misses)))),
        "rows": len(misses),
    }


def _held(
    problem: Problem, untold: Mapping[str, str], given: Mapping[str, float]
) -> dict[str, float]:
    """Values of the parameters that are not fitted.

    Raises InvalidTable for held values of no parameter, or outside a parameter's range.
    """
    ranges = {one.name: (one.lower, one.upper) for one in problem.parameters}
    for name, value in given.items():
        if name not in ranges:
            raise InvalidTable(
                f"{problem.law.name} has no parameter {name!r} to hold; it has {', '.join(ranges)}."
            )
        low, high = ranges[name]
        if not low <= value <= high:
            raise InvalidTable(
                f"{name} can't be held at {value}; it lies between {low:g} and {high:g}."
            )
    limits = {one.name: one.limit for one in problem.parameters}
    return {name: limits[name] for name in untold} | dict(given)


def _heldout(
    problem: Problem, found: Estimate, clusters: np.ndarray, residual: Residual | None,
    covariance: Array | None,
) -> dict[str, Any]:  # fmt: skip
    """The fields of a TargetFit that tell of rows whose mixtures were left out."""
    missed = left_out(problem, found, clusters, residual)
    if missed is None:
        return {}
    variances = missed.residual_variances
    if covariance is not None:
        variances = variances + log_variances(problem.jacobian(found.values), covariance)
    known = calibrated(
        missed.errors, variances, clusters, folds=missed.folds, noise=noise(problem, found),
        per_size=missed.per_size, per_step=missed.per_step,
    )  # fmt: skip
    return {
        "heldout": known,
        "heldout_errors": missed.errors,
        "heldout_mixtures": clusters,
    }


def _untold(problem: Problem) -> dict[str, str]:
    """Parameters that shares, steps or sizes vary too little to tell, with the reason."""
    inputs = problem.inputs
    steps, sizes = _distinct(inputs.steps), _distinct(inputs.params)
    shares = steps if inputs.own is None else _distinct(inputs.own_share)
    untold = {}
    for parameter in problem.parameters:
        if inputs.own is not None and shares < parameter.distinct_shares:
            one = f"is {inputs.own_share[0]:.4g} in every row"
            several = f"takes {shares} values only"
            untold[parameter.name] = (
                f"the share {one if shares == 1 else several}, so {parameter.name} can't be told"
            )
        for count, needed, what in (
            (steps, parameter.distinct_steps, "step"),
            (sizes, parameter.distinct_sizes, "model size"),
        ):
            if count < needed:
                untold[parameter.name] = (
                    f"there {f'is 1 {what}' if count == 1 else f'are {count} {what}s'}, and "
                    f"{parameter.name} needs {needed}"
                )
    return untold


def _distinct(values: Array) -> int:
    """How many values differ by more than rounding; unknown ones are one value, as is 0."""
    logs = np.sort(np.log(np.maximum(np.nan_to_num(values, nan=1.0), 1e-12)))
    return 1 + int(np.sum(np.diff(logs) > SAME))


def _intervals(
    problem: Problem, found: Estimate, known: Uncertainty
) -> tuple[dict[str, float | None], dict[str, tuple[float, float] | None]]:
    """Standard errors, and intervals that are symmetric in z: the logarithm, unless signed."""
    errors: dict[str, float | None] = {}
    intervals: dict[str, tuple[float, float] | None] = {}
    for index, parameter in enumerate(problem.parameters):
        errors[parameter.name] = intervals[parameter.name] = None
        if not found.free[index] or parameter.name in found.at_bound or known.kind == "none":
            continue
        value = float(found.values[index])
        log_error = max(0.0, float(known.covariance[index, index])) ** 0.5  # rounding
        if parameter.signed:
            errors[parameter.name] = log_error
            reach = known.quantile * log_error
            intervals[parameter.name] = (value - reach, value + reach)
            continue
        errors[parameter.name] = value * log_error
        # Beyond e^300 the interval says nothing, and JSON has no infinity.
        reach = float(np.exp(min(known.quantile * log_error, 300.0)))
        intervals[parameter.name] = (value / reach, value * reach)
    return errors, intervals


def _status(found: Estimate, unidentified: tuple[str, ...]) -> FitStatus:
    if not found.converged:
        return FitStatus.BUDGET_EXHAUSTED
    if unidentified:
        return FitStatus.NOT_IDENTIFIABLE
    return FitStatus.AT_BOUND if found.at_bound else FitStatus.CONVERGED


def _reason(found: Estimate, untold: Iterable[str], traded: tuple[str, ...]) -> str | None:
    reasons = list(untold)
    if traded:
        reasons.append(f"{' and '.join(traded)} trade off without changing any prediction")
    if found.at_bound:
        reasons.append(f"the losses push {' and '.join(found.at_bound)} to the end of the range")
    if not found.converged:
        reasons.append("the search used up its evaluations")
    return "; ".join(reasons) or None
