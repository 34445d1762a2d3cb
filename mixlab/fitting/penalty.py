"""How strongly to shrink: by the error on whole mixtures left out.

    penalty = strength / 2 * noise^2 * sum_shrunk ((z - centre) / spread)^2
              against  sum over mixtures of the mean over its rows of  scale^2 / 2 * rho

`noise` is the fit's residual in log loss. A strength of 1 is the Gaussian prior itself (ridge,
Hoerl & Kennard 1970). A mixture counts once, however many checkpoints it has, so that a strength
means the same with more of them. The path of strengths runs from one that all but holds the
shrunk parameters to one that hardly does, and on while the error still falls. The folds and the
whole table walk down it as one batch, each search from where the last one ended.

Rule: the strongest whose held-out error is within half a standard error, over mixtures, of the
best one's. Up to 12 mixtures are left out one by one, more in 5 parts.
"""

from dataclasses import dataclass, replace

import numpy as np

from mixlab.fitting.problem import Problem
from mixlab.fitting.search import Members, Robust, minimise
from mixlab.laws.law import Mask
from mixlab.mixture import Array

# Where an inner law's fit is the start, shrinking it all away again would lose it.
INNER_STRONGEST = 3.0
# In units of the squared noise under the strongest, which holds the misfit of all the shrinking.
STRONGEST, FACTOR, STEPS, MORE_STEPS = 30.0, 0.3, 6, 8
FALLS = 0.98  # the path goes on while its last step cut the error to less of it
LEAVE_ONE_OUT_UP_TO = 12
PARTS = 5
STANDARD_ERRORS = 0.5
ENOUGH_MIXTURES = 3  # below, nothing can be left out, and the strongest is taken
PATH_TOLERANCE, PATH_ITERATIONS = 1e-4, 12
# The path also ends after so many steps in a row that were clearly worse than the best.
WORSE, CLEARLY, AT_LEAST = 2, 1.02, 3


@dataclass(frozen=True)
class Choice:
    """A strength, and the weight that it gives the penalty in a search's cost."""

    strength: float
    pull: float  # strength * noise^2 * rows per mixture
    rows_per_mixture: float

    def told(self, noise: float) -> "Choice":
        """The same penalty, its strength in units of this noise."""
        return replace(self, strength=self.pull / self.rows_per_mixture / noise**2)


def _choice(strength: float, noise: float, clusters: np.ndarray) -> Choice:
    rows = len(clusters) / max(1, len(np.unique(clusters)))
    return Choice(strength, strength * noise**2 * rows, rows)


def strongest(clusters: np.ndarray, noise: float, strength: float = STRONGEST) -> Choice:
    """The start of the path, or of a path that begins at `strength`."""
    return _choice(strength, noise, clusters)


def parts(clusters: np.ndarray, count: int | None = None) -> np.ndarray:
    """For each row the number of the part that leaves its mixture out, (row,)."""
    number = np.unique(clusters, return_inverse=True)[1].reshape(-1)
    mixtures = int(number.max()) + 1
    if count is None:
        count = mixtures if mixtures <= LEAVE_ONE_OUT_UP_TO else PARTS
    # Mixtures are numbered in sorted order, so that taking turns spreads each part widely.
    return np.asarray(number % count)


def without(part: np.ndarray) -> Array:
    """Row weights of the fits that leave one part out, (part, row)."""
    return np.asarray(part[None, :] != np.unique(part)[:, None], dtype=float)


def chosen(
    problem: Problem, free: Mask, given: Members, clusters: np.ndarray, noise: float, *,
    robust: Robust, first: float = STRONGEST,
) -> tuple[Array, Choice]:  # fmt: skip
    """Values at the chosen strength, and the choice; `given` is the one start.

    `first` is the path's first strength.
    """
    if len(np.unique(clusters)) < ENOUGH_MIXTURES:
        return given.values[0], strongest(clusters, noise)
    part = parts(clusters)
    folds = without(part)
    weights = np.concatenate([np.ones((1, len(part))), folds])
    members = replace(
        Members.of(np.repeat(given.values, len(weights), axis=0), scale=float(given.scale[0])),
        weights=weights,
    )
    path: list[Choice] = []
    values: list[Array] = []
    errors: list[Array] = []
    for step in range(STEPS + MORE_STEPS):
        if step >= STEPS and not errors[-1].mean() < FALLS * errors[-2].mean():
            break
        if _stale([float(one.mean()) for one in errors]):
            break
        path.append(_choice(first * FACTOR**step, noise, clusters))
        ends = minimise(
            problem, free, replace(members, pull=np.full(len(weights), path[-1].pull)),
            robust=robust, tolerance=PATH_TOLERANCE, iterations=PATH_ITERATIONS,
        )  # fmt: skip
        members = replace(members, values=ends.values)
        values.append(ends.values[0])
        errors.append(_missed(problem, ends.values[1:], part, clusters))
    best = _ruled(np.array(errors))
    return values[best], path[best]


def _stale(means: list[float]) -> bool:
    """Whether the path's last steps led away from the best one."""
    if len(means) < AT_LEAST + WORSE:
        return False
    return min(means[-WORSE:]) > CLEARLY * min(means)


def _missed(problem: Problem, values: Array, part: np.ndarray, clusters: np.ndarray) -> Array:
    """Mean absolute error in log loss of each mixture by the fit that left it out, (mixture,)."""
    fold = np.unique(part, return_inverse=True)[1].reshape(-1)
    with np.errstate(all="ignore"):
        residuals = problem.residuals(values)[fold, np.arange(len(fold))]
    mixture = np.unique(clusters, return_inverse=True)[1].reshape(-1)
    return np.asarray(np.bincount(mixture, np.abs(residuals)) / np.bincount(mixture))


def _ruled(errors: Array) -> int:
    """The first of the path that the best one does not clearly beat; `errors` (strength, mixture).

    The standard error is that of the paired differences, which the mixtures' own difficulty
    does not blur.
    """
    means = np.where(np.isfinite(errors).all(axis=1), errors.mean(axis=1), np.inf)
    best = int(np.argmin(means))
    excess = errors - errors[best]
    doubt = STANDARD_ERRORS * excess.std(axis=1, ddof=1) / np.sqrt(errors.shape[1])
    near = np.isfinite(means) & (excess.mean(axis=1) <= doubt + 1e-12)
    return int(np.flatnonzero(near)[0]) if near.any() else 0
