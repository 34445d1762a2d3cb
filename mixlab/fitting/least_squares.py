"""One target's estimate: from the law's starts to the parameters that could as well be nothing.

    minimise  sum rho((log predicted - log observed)^2) + pull * sum ((z - centre) / spread)^2

Method: the batched search of search.py, from all of the law's starts at once. The robust
loss's scale is 0.05 in log loss for the starts, then twice the noise that the median absolute
residual shows, so that clean rows count as in plain least squares and stray rows count
less; a stated scale is used as it is. The strength comes from cross-validation (penalty.py).

Limits: finds the best of a few local minima, not a proven global one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mixlab.fitting.penalty import INNER_STRONGEST, STRONGEST, Choice, chosen, strongest
from mixlab.fitting.problem import Problem
from mixlab.fitting.search import LOOSE_TOLERANCE, TOLERANCE, Members, Robust, minimise
from mixlab.laws.law import Mask
from mixlab.mixture import Array

FIRST_SCALE = 0.05
SCALE_IN_NOISE = 2.0
SMALLEST_SCALE = 1e-6  # noiseless losses would give 0
# A parameter may be at its limit only if its logarithm is this uncertain, or hardly felt.
VAGUE_LOG_ERROR = 0.3
UNFELT = 1e-4
START_TOLERANCE, SHRUNK_TOLERANCE = 1e-4, 1e-5
FACTOR_LIKE = 0.3  # how uneven the effect of a parameter that sets the level may be
LARGEST_SHIFT = 50.0  # of a logarithm: a start that needs more is no start
NEAR_BOUND = 0.01  # in the logarithm; of the range where signed


@dataclass(frozen=True)
class Estimate:
    """Where the search ended."""

    values: Array  # (parameter,)
    free: Mask  # (parameter,), false for a parameter held at a given or limiting value
    at_bound: tuple[str, ...]
    cost: float
    scale: float  # of the robust loss, in log loss
    converged: bool
    robust: Robust = field(default_factory=Robust)
    choice: Choice | None = None  # of the strength, where parameters are shrunk

    @property
    def pull(self) -> float:
        """The penalty's weight in the cost."""
        return 0.0 if self.choice is None else self.choice.pull

    def curvature(self, problem: Problem) -> Array:
        """The penalty's part of the cost's curvature over the free parameters, (free,)."""
        return np.asarray(self.pull * problem.precision[self.free])


def estimate(
    problem: Problem,
    held: Mapping[str, float],
    clusters: np.ndarray,
    *,
    robust: Robust | None = None,
) -> Estimate:
    """The best estimate; parameters in `held` keep the values given there.

    `clusters` numbers each row's mixture: what cross-validation leaves out whole.
    """
    robust = robust or _robust(problem)
    free = np.array([name not in held for name in problem.names])
    starts, first, scale = _starts(problem, held, clusters, robust)
    for name, value in held.items():
        starts[:, problem.names.index(name)] = value
    if held:
        starts = _levelled(problem, starts, free)
    given = Estimate(starts[0], free, (), np.inf, robust.scale or scale, False, robust)
    shrinks = bool((problem.shrunk & free).any())
    if shrinks:
        given = replace(given, choice=strongest(clusters, given.scale, first))
    found = _rescaled(problem, _best_of(problem, starts, given))
    if shrinks:
        found = _shrunk(problem, found, clusters, first)
    return _with_limits(problem, search(problem, found))


def _robust(problem: Problem) -> Robust:
    """Strays all but ignored where many parameters could chase them, as after rounded shares."""
    return Robust("student") if problem.shrunk.any() else Robust()


def _starts(
    problem: Problem, held: Mapping[str, float], clusters: np.ndarray, robust: Robust
) -> tuple[Array, float, float]:
    """Starts, strength and scale to begin at: from the inner law's fit where there is one."""
    law = problem.law
    if problem.inner is None or law.outward is None:
        starts = np.array(law.starts(problem.inputs, problem.losses), dtype=float)
        return starts, STRONGEST, FIRST_SCALE
    inside = {name: value for name, value in held.items() if name in problem.inner.names}
    found = estimate(problem.inner, inside, clusters, robust=robust)
    starts = np.array(law.outward(found.values[None, :], problem.inputs))
    return starts, INNER_STRONGEST, found.scale


def _levelled(problem: Problem, starts: Array, free: Mask) -> Array:
    """Starts whose overall level fits again, after some of their parameters were held elsewhere.

    By the parameter that comes nearest to a factor of the loss.
    """
    with np.errstate(all="ignore"):
        residuals, jacobian = problem.residuals(starts), problem.jacobian(starts)
    levelled = starts.copy()
    for start, misses, slopes in zip(levelled, residuals, jacobian, strict=True):
        uneven = np.where(free & ~problem.signed, slopes.std(axis=0), np.inf)
        size = np.abs(slopes.mean(axis=0))
        # What moves no loss at all, as exponents of a held term do, sets no level.
        uneven = np.where(size > 1e-12, uneven / np.maximum(size, 1e-12), np.inf)
        factor = int(np.argmin(np.nan_to_num(uneven, nan=np.inf)))
        if not uneven[factor] < FACTOR_LIKE:  # no parameter moves all losses alike
            continue
        shift = -float(np.median(misses)) / float(slopes[:, factor].mean())
        if abs(shift) < LARGEST_SHIFT:
            start[factor] *= np.exp(shift)
    return levelled


def _shrunk(problem: Problem, found: Estimate, clusters: np.ndarray, first: float) -> Estimate:
    """The estimate at the strength that cross-validation over the mixtures chooses."""
    given = Members.of(found.values[None, :], scale=found.scale)
    unit = max(SMALLEST_SCALE, noise(problem, found))
    values, choice = chosen(
        problem, found.free, given, clusters, unit, robust=found.robust, first=first
    )
    found = _rescaled(problem, replace(found, values=values, choice=choice))
    return replace(found, choice=choice.told(max(SMALLEST_SCALE, noise(problem, found))))


def _rescaled(problem: Problem, found: Estimate) -> Estimate:
    """The estimate with the robust scale that its own noise asks for, unless one is stated."""
    if found.robust.scale is not None:
        return found
    return replace(found, scale=max(SMALLEST_SCALE, SCALE_IN_NOISE * noise(problem, found)))


def noise(problem: Problem, found: Estimate) -> float:
    """Standard deviation of the log residuals by their median absolute value."""
    residuals = np.abs(problem.residuals(found.values))
    rows, parameters = len(residuals), int((found.free & ~problem.shrunk).sum())
    spare = max(1, rows - parameters)
    # 1.4826 makes the median of |normal| a standard deviation.
    return float(1.4826 * np.median(residuals) * np.sqrt(rows / spare))


def _best_of(problem: Problem, starts: Array, given: Estimate) -> Estimate:
    """The cheapest of the searches from every start."""
    members = Members.of(starts, scale=given.scale, pull=given.pull)
    # Where the strength is still to be chosen, a start is all that is wanted.
    tolerance = 1e-9 if given.choice is None else START_TOLERANCE
    ends = minimise(problem, given.free, members, robust=given.robust, tolerance=tolerance)
    best = int(np.argmin(ends.cost))
    return replace(
        given, values=ends.values[best], cost=float(ends.cost[best]),
        converged=bool(ends.converged[best]),
    )  # fmt: skip


def search(problem: Problem, given: Estimate, *, loose: bool = False) -> Estimate:
    """One search over the free parameters. A loose one stops at a cost good to a few digits."""
    return searched(problem, [given], loose=loose)[0]


def searched(problem: Problem, given: Sequence[Estimate], *, loose: bool = False) -> list[Estimate]:
    """One search from each of the estimates, which hold the same parameters free."""
    first = given[0]
    members = Members.of(
        np.array([one.values for one in given]), scale=first.scale, pull=first.pull
    )
    tolerance = LOOSE_TOLERANCE if loose else TOLERANCE
    # A penalty's strength is known to a digit or two, and so is what it leads to.
    tolerance = max(tolerance, SHRUNK_TOLERANCE if first.pull else 0.0)
    ends = minimise(problem, first.free, members, robust=first.robust, tolerance=tolerance)
    return [
        replace(one, values=values, cost=float(cost), converged=bool(converged))
        for one, values, cost, converged in zip(
            given, ends.values, ends.cost, ends.converged, strict=True
        )
    ]


def _with_limits(problem: Problem, found: Estimate) -> Estimate:
    """Puts at its limit every parameter that the losses push there, and names those at bounds."""
    for index in _vague(problem, found):
        limited = _limited(problem, found, index)
        if limited is not None:
            found = limited
    return replace(found, at_bound=(*found.at_bound, *_near_bound(problem, found)))


def _near_bound(problem: Problem, found: Estimate) -> list[str]:
    """Free parameters at an end of their range; a shrunk one is where its penalty wants it."""
    lower, upper = problem.bounds
    margin = NEAR_BOUND * np.where(problem.signed, upper - lower, 1.0)
    z = problem.z_of(found.values)
    near = found.free & ~problem.shrunk & ((z <= lower + margin) | (z >= upper - margin))
    return [problem.names[index] for index in np.flatnonzero(near)]


def _vague(problem: Problem, found: Estimate) -> Sequence[int]:
    """Free positive parameters that could as well be nothing, in the law's order."""
    jacobian = stacked(problem, found)
    felt = np.abs(jacobian).max(axis=0)
    free = np.flatnonzero(found.free)
    norms = np.maximum(np.linalg.norm(jacobian, axis=0), 1e-300)
    _, singular, directions = np.linalg.svd(jacobian / norms, full_matrices=False)
    # No cut-off for small singular values: what trades off is vague, and must look so.
    spread = np.linalg.norm(directions.T / np.maximum(singular, 1e-300), axis=1)
    errors = max(noise(problem, found), 1e-12) * spread / norms
    may = ~(problem.signed | problem.shrunk)[free]
    return [int(i) for i in free[may & ((errors > VAGUE_LOG_ERROR) | (felt < UNFELT))]]


def stacked(problem: Problem, found: Estimate) -> Array:
    """The Jacobian over the free parameters, with one more row for each one's penalty."""
    jacobian = problem.jacobian(found.values)[:, found.free]
    if not found.pull:
        return np.asarray(jacobian)
    return np.concatenate([jacobian, np.diag(np.sqrt(found.curvature(problem)))])


def _limited(problem: Problem, found: Estimate, index: int) -> Estimate | None:
    """The estimate with one parameter at its limit, if that costs nothing."""
    parameter = problem.parameters[index]
    values, free = found.values.copy(), found.free.copy()
    values[index], free[index] = parameter.limit, False
    with np.errstate(all="ignore"):
        predicted = problem.law.predict(values, problem.inputs)
    if not free.any() or not np.all(np.isfinite(predicted) & (predicted > 0)):
        return None
    at_bound = (*found.at_bound, parameter.name)
    limited = search(problem, replace(found, values=values, free=free, at_bound=at_bound))
    perfect = 0.5 * len(problem.losses) * 1e-18  # relative errors of 1e-9 are no evidence
    return limited if limited.cost <= found.cost * (1 + 1e-6) + perfect else None
