"""How strongly to shrink: by the error on whole mixtures left out.

    penalty = strength / 2 * sum_shrunk (z - centre)^2
              against  sum over mixtures of the mean over its rows of  scale^2 / 2 * rho

A mixture counts once, however many checkpoints it has, so that a strength means the same with
more rows: it is (s / tau)^2, where s is a mixture's misfit in log loss and tau the prior standard
deviation of z (ridge as a Gaussian prior, Hoerl & Kennard 1970). The strengths of a
path run from one that all but holds the shrunk parameters to one that hardly does. The folds
and the whole table walk down it as one batch, each search from where the last one ended.

Rule: the strongest whose held-out error is within half a standard error, over mixtures, of the
best one's. Up to 12 mixtures are left out one by one, more in 5 parts.
"""

from dataclasses import dataclass, replace

import numpy as np

from mixlab.fitting.problem import Problem
from mixlab.fitting.search import Members, Robust, minimise
from mixlab.laws.law import Mask
from mixlab.mixture import Array

STRENGTHS = tuple(float(strength) for strength in 10.0 ** np.arange(0.5, -6.6, -0.75))
LEAVE_ONE_OUT_UP_TO = 12
PARTS = 5
STANDARD_ERRORS = 0.5
ENOUGH_MIXTURES = 3  # below, nothing can be left out, and the strongest is taken
PATH_TOLERANCE, PATH_ITERATIONS = 1e-5, 25


@dataclass(frozen=True)
class Choice:
    """A strength, and what it is in units of a search's cost."""

    strength: float
    pull: float  # strength * rows per mixture


def strongest(clusters: np.ndarray) -> Choice:
    """The start of the path."""
    return _choice(STRENGTHS[0], clusters)


def _choice(strength: float, clusters: np.ndarray) -> Choice:
    return Choice(strength, strength * len(clusters) / max(1, len(np.unique(clusters))))


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
    problem: Problem, free: Mask, given: Members, clusters: np.ndarray, part: np.ndarray, *,
    robust: Robust,
) -> tuple[Array, Choice]:  # fmt: skip
    """Values at the chosen strength, and the choice; `given` is the one start."""
    numbers, mixture = np.unique(clusters, return_inverse=True)
    if len(numbers) < ENOUGH_MIXTURES:
        return given.values[0], strongest(clusters)
    folds = without(part)
    weights = np.concatenate([np.ones((1, len(part))), folds])
    members = replace(
        Members.of(np.repeat(given.values, len(weights), axis=0), scale=float(given.scale[0])),
        weights=weights,
    )
    row, fold = np.arange(len(part)), 1 + np.searchsorted(np.unique(part), part)
    values, errors = [], []
    for strength in STRENGTHS:
        pull = np.full(len(weights), _choice(strength, clusters).pull)
        ends = minimise(
            problem, free, replace(members, strength=pull), robust=robust,
            tolerance=PATH_TOLERANCE, iterations=PATH_ITERATIONS,
        )  # fmt: skip
        members = replace(members, values=ends.values)
        with np.errstate(all="ignore"):
            missed = np.abs(problem.residuals(ends.values))[fold, row]
        values.append(ends.values[0])
        errors.append(np.bincount(mixture.reshape(-1), missed) / np.bincount(mixture.reshape(-1)))
    best = _ruled(np.array(errors))
    return values[best], _choice(STRENGTHS[best], clusters)


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
