"""The exact way for laws that at a fixed step are a power of the own share, under plain bounds."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mixlab.fitting import Fit
from mixlab.fitting.surface import Surface, surface
from mixlab.laws import Mask
from mixlab.mixture import Array
from mixlab.solvers.constraints import DEFAULT_LOWER, Constraints
from mixlab.solvers.objective import Objective
from mixlab.solvers.problem import check_identified, off_zero
from mixlab.solvers.separable import Split, split


@dataclass(frozen=True)
class Powers:
    """Arrays over domains; a domain without a target has weight and coefficient 0."""

    weights: Array  # sums to 1
    coefficient: Array
    exponent: Array
    fitted: Mask  # whether the domain has a target

    @property
    def pull(self) -> Array:
        """Coefficient of the objective's slope."""
        return np.asarray(self.weights * self.coefficient * self.exponent)


def separable(fit: Fit, objective: Objective, constraints: Constraints) -> bool:
    """Whether the exact way serves."""
    plain = objective.kind == "mean" and objective.risk is None
    return (
        plain
        and constraints.simple
        and not fit.share_floor
        and all(
            found.law.power_law is not None and found.residual is None and name in fit.domains
            for name, found in fit.targets.items()
        )
    )


def powers(seen: Surface, weights: Mapping[str, float]) -> Powers:
    """Coefficients and exponents of a surface of power laws."""
    size = len(seen.domains)
    found = Powers(np.zeros(size), np.zeros(size), np.zeros(size), np.zeros(size, dtype=bool))
    for part in seen.parts:
        assert part.law.power_law is not None
        assert part.own is not None
        index = part.own
        found.coefficient[index], found.exponent[index] = part.law.power_law(part.values, seen.step)
        found.weights[index] = weights.get(part.target, 0.0)
        found.fitted[index] = True
    return found


def solve_powers(
    fit: Fit, objective: Objective, constraints: Constraints
) -> tuple[Surface, Split, Array, Array, Array]:
    """Surface, shares, slope of the objective and bounds. Raises as `solve` does."""
    seen = surface(fit, objective.step, params=objective.params)
    weights = objective.weighted(seen.targets)
    check_identified(fit, tuple(weights))
    found = powers(seen, weights)
    low, high = constraints.bounds(fit.domains)
    low = off_zero(fit.domains, found.pull > 0, low, high)
    # Where nothing weighs, the loss may still be infinite at 0.
    small = min(DEFAULT_LOWER, 0.1 * max(1 - float(low.sum()), 0.0) / len(low))
    spare = found.fitted & (found.exponent > 0) & (low <= 0)
    low = np.where(spare, np.minimum(small, high), low)
    answer = split(found.pull, found.exponent, low, high)
    slope = np.zeros(len(low))
    pulled = found.pull > 0
    slope[pulled] = -found.pull[pulled] * answer.shares[pulled] ** -(1 + found.exponent[pulled])
    return seen, answer, slope, low, high
