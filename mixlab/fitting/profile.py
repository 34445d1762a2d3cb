"""Intervals by profile, for parameters that the losses tell only vaguely.

    {value : min over the other parameters of cost(value, others) - cost(estimate) <= excess}
    excess = quantile^2 / 2 * variance / curvature^-1

A standard error describes a cost that is a parabola. Over few steps scale, beta and floor trade
off along a bent valley, and the parabola's interval misses the truth too often; at the limit of
a parameter's range there is no parabola at all. The profile follows the valley. `variance`
over the inverse curvature is what mixtures as clusters (uncertainty.py) add to it.

Limits: where scale as a function of beta turns back along the valley (beta near 1 / log step), its
own interval still holds the truth only 85 to 90 times in 100; those of alpha, beta and floor
hold. Observe a wider range of steps if the scale itself matters.

Source: Bates & Watts, Nonlinear Regression Analysis (1988), ch. 6.
"""

from dataclasses import dataclass, replace

import numpy as np

from mixlab.fitting.least_squares import Estimate, search
from mixlab.fitting.problem import Problem
from mixlab.fitting.uncertainty import Uncertainty
from mixlab.mixture import Array

VAGUE = 0.1  # in logarithms; below, parabola and profile agree to a few percent
CLOSE = 0.02  # of the square root of the excess
EXPANSIONS, REFINEMENTS = 12, 12
NUDGE = 0.05  # relative change of the loss that a parameter freed from its limit starts with


@dataclass(frozen=True)
class _Profile:
    problem: Problem
    found: Estimate
    index: int
    excess: float
    along: Array  # (parameter,) how the others' logarithms follow this one's along the valley

    def height(self, log_value: float) -> float:
        """sqrt(cost excess / allowed excess): 0 at the estimate, 1 at the interval's ends."""
        costs = [search(self.problem, start, loose=True).cost for start in self._starts(log_value)]
        rise = max(0.0, min(costs) - self.found.cost)
        return float(np.sqrt(rise / self.excess))

    def _starts(self, log_value: float) -> list[Estimate]:
        free, moved = self.found.free.copy(), 0.0
        if self.found.values[self.index] > 0:
            moved = log_value - float(np.log(self.found.values[self.index]))
        # Starting down in the valley spares the search its slow descent from the slope.
        values = self.found.values * np.exp(np.clip(moved * self.along, -5, 5))
        values[self.index], free[self.index] = np.exp(log_value), False
        starts = [replace(self.found, values=values, free=free)]
        nudged, freed = values.copy(), free.copy()
        for other, parameter in enumerate(self.problem.parameters):
            if other != self.index and parameter.name in self.found.at_bound and not free[other]:
                nudged[other], freed[other] = _nudge(self.problem, values, other), True
        if not np.array_equal(free, freed):
            starts.append(replace(self.found, values=nudged, free=freed))
        return starts


def profiled(
    problem: Problem, found: Estimate, known: Uncertainty
) -> dict[str, tuple[float, float]]:
    """95% intervals of the parameters that are vague, or all if one is at its limit."""
    errors = np.sqrt(np.maximum(0, np.diag(known.covariance)))
    ratio = _ratios(problem, found, known)
    allowed = 0.5 * known.quantile**2 * ratio
    intervals = {}
    for index, parameter in enumerate(problem.parameters):
        limited = parameter.name in found.at_bound and found.values[index] == parameter.limit
        if limited:
            start = float(np.log(_nudge(problem, found.values, index)))
            still = np.zeros(len(errors))
            upward = _Profile(problem, found, index, float(np.nanmax(allowed)), still)
            # From so near the limit that nothing is felt, in steps up.
            high = _crossing(upward, start - 3, start, float(np.log(parameter.upper)))
            intervals[parameter.name] = (parameter.limit, float(np.exp(high)))
        elif found.free[index] and (found.at_bound or errors[index] > VAGUE):
            along = known.covariance[:, index] / max(errors[index] ** 2, 1e-300)
            around = _Profile(problem, found, index, float(allowed[index]), along)
            middle, reach = float(np.log(found.values[index])), known.quantile * errors[index]
            low = _crossing(around, middle, middle - reach, float(np.log(parameter.lower)))
            high = _crossing(around, middle, middle + reach, float(np.log(parameter.upper)))
            least = parameter.limit if low <= np.log(parameter.lower) else float(np.exp(low))
            intervals[parameter.name] = (least, float(np.exp(high)))
    return intervals


def _crossing(profile: _Profile, inside: float, guess: float, end: float) -> float:
    """Where the profile's height is 1, between `inside` and the end of the range."""
    # A vague parameter's standard error may reach far beyond where the profile ends.
    step, height = float(np.clip(guess - inside, -1, 1)), 0.0
    for _ in range(EXPANSIONS):
        point = inside + step
        if (end - point) * (end - inside) <= 0:
            return end
        before, height = height, profile.height(point)
        if height >= 1:
            return _refined(profile, (inside, before), (point, height))
        inside, step = point, 1.5 * step
    return end


def _refined(profile: _Profile, below: tuple[float, float], above: tuple[float, float]) -> float:
    """The crossing between two points, by the secant of the nearly straight height."""
    for _ in range(REFINEMENTS):
        part = (1 - below[1]) / (above[1] - below[1])
        # Kept off the ends, so that a bent height is halved rather than crept along.
        middle = below[0] + float(np.clip(part, 0.1, 0.9)) * (above[0] - below[0])
        height = profile.height(middle)
        if abs(height - 1) < CLOSE:
            return middle
        below, above = (below, (middle, height)) if height > 1 else ((middle, height), above)
    return above[0]


def _ratios(problem: Problem, found: Estimate, known: Uncertainty) -> Array:
    """Variance over inverse curvature of each free parameter, NaN for the others."""
    residuals = problem.residuals(found.values)
    curvature = np.maximum(found.robust.slopes((residuals / found.scale) ** 2)[1], 1e-6)
    weighted = problem.jacobian(found.values)[:, found.free] * np.sqrt(curvature)[:, None]
    inverse = np.diag(np.linalg.inv(weighted.T @ weighted))
    ratios = np.full(len(found.values), np.nan)
    ratios[found.free] = np.diag(known.covariance)[found.free] / inverse
    return ratios


def _nudge(problem: Problem, values: Array, index: int) -> float:
    """The value at which a parameter now at its limit would change the loss noticeably."""
    gradient = problem.law.gradient(values, problem.inputs)[:, index]
    felt = float(np.abs(gradient / problem.law.predict(values, problem.inputs)).max())
    parameter = problem.parameters[index]
    return float(np.clip(NUDGE / max(felt, 1e-300), parameter.lower * 10, parameter.upper / 10))
