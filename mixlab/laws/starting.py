"""Starting values that several laws share: curves in the step, and domains' worth.

Cheap, deterministic, and from the data alone: regressions that are straight lines once one
exponent is fixed, over a small grid of that exponent.
"""

from dataclasses import dataclass

import numpy as np

from mixlab.mixture import Array

# Published fits of the step's exponent lie between 0.1 and 1.2 (0.93 to 1.17 in tokens on
# SlimPajama); the ends are there for curves that hardly bend.
BETAS = np.array([0.03, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4])

LEAST_WORTH = 0.01  # of the most useful domain's; a start at nothing could never leave it


@dataclass(frozen=True)
class Curve:
    """scale * step^-beta + floor, times amount^-alpha, with its squared error."""

    error: float
    scale: float
    alpha: float
    beta: float
    floor: float

    @property
    def values(self) -> Array:
        """scale, alpha, beta, floor."""
        return np.array([self.scale, self.alpha, self.beta, self.floor])

    def over(self, steps: Array) -> Array:
        """scale * step^-beta + floor."""
        return np.asarray(self.scale * steps**-self.beta + self.floor)


def curves(amount: Array, steps: Array, losses: Array) -> list[Curve]:
    """losses = amount^-alpha * (scale * step^-beta + floor), best first.

    alpha comes from a regression of log loss on log amount and a parabola in log step; for
    each beta of a grid the rest, L * amount^alpha = scale * s^-beta + floor, is a straight line.
    """
    log_amount, log_step = np.log(amount), np.log(steps)
    centred = log_step - log_step.mean()
    regressors = np.stack([np.ones_like(centred), -log_amount, centred, centred**2], axis=1)
    alpha = float(np.clip(np.linalg.lstsq(regressors, np.log(losses))[0][1], 1e-3, 2.0))
    found = [_curve(alpha, float(beta), amount, steps, losses) for beta in BETAS]
    return sorted(found, key=lambda curve: curve.error)


def _curve(alpha: float, beta: float, amount: Array, steps: Array, losses: Array) -> Curve:
    """The positive straight line of loss * amount^alpha on steps^-beta."""
    x, level = steps**-beta, losses * amount**alpha
    spread, mean_x, mean = float(np.var(x)), float(x.mean()), float(level.mean())
    slope = float(np.mean((x - mean_x) * (level - mean))) / spread if spread > 0 else 0.0
    # Both parts stay positive, since they are fitted as logarithms.
    slope = float(np.clip(slope, 1e-3 * mean / mean_x, 0.999 * mean / mean_x))
    floor = mean - slope * mean_x
    error = float(np.sum(((slope * x + floor) / level - 1) ** 2))
    return Curve(error, slope, alpha, beta, floor)


def worths(amount: Array, proportions: Array) -> Array:
    """Positive worths t, (domain,), with sum_j t_j r_j near `amount`, by relative error.

    Domains that the losses say are worth nothing, or less, get a small worth.
    """
    relative = proportions / amount[:, None]
    # A ridge toward equal worths, for domains whose shares never vary.
    equal = float(1 / np.mean(relative.sum(axis=1)))
    ridge = 1e-4 * float(np.mean(relative**2)) * len(amount)
    normal = relative.T @ relative + ridge * np.eye(proportions.shape[1])
    found = np.linalg.solve(normal, relative.T @ np.ones(len(amount)) + ridge * equal)
    return np.asarray(np.maximum(found, LEAST_WORTH * max(float(found.max()), 1e-300)))


def positive_line(columns: Array, losses: Array) -> tuple[float, Array]:
    """Squared relative error and positive factors of losses = columns @ factors.

    Columns are dropped, the most negative first, until every factor is positive; those dropped,
    or 0 everywhere, keep a thousandth of the loss, since factors are fitted as logarithms.
    """
    relative = columns / losses[:, None]
    sizes = np.sqrt(np.mean(relative**2, axis=0))
    kept = [index for index in range(len(sizes)) if sizes[index] > 0]
    factors = np.zeros(len(sizes))
    while kept:
        scaled = relative[:, kept] / sizes[kept]
        normal = scaled.T @ scaled + 1e-9 * len(losses) * np.eye(len(kept))
        found = np.linalg.solve(normal, scaled.sum(axis=0))
        if found.min() > 0:
            factors[kept] = found / sizes[kept]
            break
        kept.pop(int(found.argmin()))
    least = 1e-3 / np.where(sizes > 0, sizes, 1.0)
    factors = np.maximum(factors, least)
    return float(np.sum((relative @ factors - 1) ** 2)), factors
