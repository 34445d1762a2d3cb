"""Robust least squares in log space, for any law.

    minimise  sum rho((log predicted - log observed)^2)  over the logarithms of the parameters

Method: SciPy's Trust Region Reflective (Branch, Coleman & Li 1999) with the law's analytic
gradient, from the law's own starts. rho is soft L1. Its scale is 0.05 in log loss for the
starts, then twice the noise that the median absolute residual shows, so that clean
rows count as in plain least squares and stray rows count linearly.

Limits: finds the best of a few local minima, not a proven global one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import least_squares

from mixlab.laws.law import Inputs, Law, Mask, Parameter
from mixlab.mixture import Array

FIRST_SCALE = 0.05
SCALE_IN_NOISE = 2.0
SMALLEST_SCALE = 1e-6  # noiseless losses would give 0
TOLERANCE = 1e-12
LOOSE_TOLERANCE = 1e-7
MAX_EVALUATIONS = 400
# A parameter may be at its limit only if its logarithm is this uncertain, or hardly felt.
VAGUE_LOG_ERROR = 0.3
UNFELT = 1e-4


@dataclass(frozen=True)
class Problem:
    """One target's losses under one law."""

    law: Law
    parameters: tuple[Parameter, ...]
    inputs: Inputs
    losses: Array  # (row,)

    def residuals(self, values: Array) -> Array:
        """Log predicted minus log observed, (row,)."""
        # Log loss, because a fit is judged by its relative error (diagnostics.py).
        predicted = self.law.predict(values, self.inputs)
        return np.asarray(np.log(predicted) - np.log(self.losses))

    def jacobian(self, values: Array) -> Array:
        """Derivatives of the residuals by the parameters' logarithms, (row, parameter)."""
        predicted = self.law.predict(values, self.inputs)
        return np.asarray(self.law.gradient(values, self.inputs) * values / predicted[:, None])


@dataclass(frozen=True)
class Estimate:
    """Where the search ended."""

    values: Array  # (parameter,)
    free: Mask  # (parameter,), false for a parameter held at a given or limiting value
    at_bound: tuple[str, ...]
    cost: float
    scale: float  # of the robust loss, in log loss
    converged: bool


def estimate(problem: Problem, held: dict[str, float]) -> Estimate:
    """The best estimate; parameters in `held` keep the values given there."""
    names = [parameter.name for parameter in problem.parameters]
    free = np.array([name not in held for name in names])
    starts = problem.law.starts(problem.inputs, problem.losses).copy()
    for name, value in held.items():
        starts[:, names.index(name)] = value
    first = _best_of(problem, starts, free)
    scale = max(SMALLEST_SCALE, SCALE_IN_NOISE * noise(problem, first))
    found = search(problem, replace(first, scale=scale))
    return _with_limits(problem, found)


def noise(problem: Problem, found: Estimate) -> float:
    """Standard deviation of the log residuals by their median absolute value."""
    residuals = np.abs(problem.residuals(found.values))
    rows, parameters = len(residuals), int(found.free.sum())
    spare = max(1, rows - parameters)
    # 1.4826 makes the median of |normal| a standard deviation.
    return float(1.4826 * np.median(residuals) * np.sqrt(rows / spare))


def _best_of(problem: Problem, starts: Array, free: Mask) -> Estimate:
    """The cheapest of the searches; stops early where one already fits perfectly."""
    best: Estimate | None = None
    for values in starts:
        given = Estimate(values, free, (), np.inf, FIRST_SCALE, converged=False)
        found = search(problem, given)
        if best is None or found.cost < best.cost:
            best = found
        if best.cost < len(problem.losses) * SMALLEST_SCALE**2:
            break
    assert best is not None  # a law gives at least one start
    return best


def search(problem: Problem, given: Estimate, *, loose: bool = False) -> Estimate:
    """One Trust Region Reflective search over the free parameters' logarithms.

    A loose one stops at a cost good to a few digits.
    """
    tolerance = LOOSE_TOLERANCE if loose else TOLERANCE
    free, values = given.free, given.values
    lower = np.log([parameter.lower for parameter in problem.parameters])[free]
    upper = np.log([parameter.upper for parameter in problem.parameters])[free]
    margin = 1e-6 * (upper - lower)

    def at(logs: Array) -> Array:
        moved = values.copy()
        moved[free] = np.exp(logs)
        return moved

    def residuals(logs: Array) -> Array:
        return problem.residuals(at(logs))

    def jacobian(logs: Array) -> Array:
        return problem.jacobian(at(logs))[:, free]

    answer = least_squares(
        residuals,
        np.clip(np.log(values[free]), lower + margin, upper - margin),
        jac=jacobian,
        bounds=(lower, upper),
        loss="soft_l1",
        f_scale=given.scale,
        x_scale="jac",
        ftol=tolerance,
        xtol=tolerance,
        gtol=tolerance,
        max_nfev=MAX_EVALUATIONS,
    )
    return replace(
        given, values=at(answer.x), cost=float(answer.cost), converged=bool(answer.status > 0)
    )


def _with_limits(problem: Problem, found: Estimate) -> Estimate:
    """Puts at its limit every parameter that the losses push there, and names those at bounds."""
    for index in _vague(problem, found):
        limited = _limited(problem, found, index)
        if limited is not None:
            found = limited
    near = [
        parameter.name
        for parameter, value, free in zip(problem.parameters, found.values, found.free, strict=True)
        if free and not parameter.lower * 1.01 < value < parameter.upper * 0.99
    ]
    return replace(found, at_bound=(*found.at_bound, *near))


def _vague(problem: Problem, found: Estimate) -> Sequence[int]:
    """Free parameters that could as well be nothing, in the law's order."""
    jacobian = problem.jacobian(found.values)
    felt = np.abs(jacobian).max(axis=0)
    free = np.flatnonzero(found.free)
    norms = np.maximum(np.linalg.norm(jacobian, axis=0), 1e-300)
    _, singular, directions = np.linalg.svd((jacobian / norms)[:, free], full_matrices=False)
    # No cut-off for small singular values: what trades off is vague, and must look so.
    spread = np.linalg.norm(directions.T / np.maximum(singular, 1e-300), axis=1)
    errors = np.full(len(felt), np.inf)
    errors[free] = max(noise(problem, found), 1e-12) * spread / norms[free]
    return [int(i) for i in free if errors[i] > VAGUE_LOG_ERROR or felt[i] < UNFELT]


def _limited(problem: Problem, found: Estimate, index: int) -> Estimate | None:
    """The estimate with one parameter at its limit, if that costs nothing."""
    parameter = problem.parameters[index]
    values, free = found.values.copy(), found.free.copy()
    values[index], free[index] = parameter.limit, False
    predicted = problem.law.predict(values, problem.inputs)
    if not free.any() or not np.all(np.isfinite(predicted) & (predicted > 0)):
        return None
    at_bound = (*found.at_bound, parameter.name)
    limited = search(problem, replace(found, values=values, free=free, at_bound=at_bound))
    perfect = 0.5 * len(problem.losses) * 1e-18  # relative errors of 1e-9 are no evidence
    return limited if limited.cost <= found.cost * (1 + 1e-6) + perfect else None
