"""Robust, weighted, penalised least squares for many fits of one target at once.

    cost(z) = sum_row w_row * scale^2 / 2 * rho((residual_row / scale)^2)
            + pull / 2 * sum_shrunk ((z - centre) / spread)^2

Members of a batch differ in start, row weights (folds: 0 or 1; bootstrap: counts), pull and
scale.

Method: Levenberg-Marquardt (Marquardt 1963) with the law's analytic gradient, rows weighted anew
by how the robust loss pulls at them (Holland & Welsch 1977), damping by the gain ratio (Nielsen
1999) and bounds by projection: a parameter at its bound, whose cost falls beyond it, is held there
for the step. From the twelfth step on, the curvature that Gauss and Newton leave out is learnt
from how slopes changed (symmetric rank-one updates; Dennis, Gay & Welsch 1981), without which bent
valleys take hundreds of steps. Members that converge leave the batch.

Limits: finds a local minimum, the best of its starts at most.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mixlab.fitting.problem import Problem
from mixlab.laws.law import Mask
from mixlab.mixture import Array

RobustKind = Literal["soft_l1", "huber", "student"]

TOLERANCE = 1e-12  # relative fall of the cost
LOOSE_TOLERANCE = 1e-7
MAX_ITERATIONS = 400
FIRST_DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e-3, 1e-13, 1e12
# A small fall ends the search only where damping can't have caused it.
LIGHT_DAMPING = 1e-6
FARTHEST_STEP = 1.0  # of a logarithm, or in spreads
LEARNT_FROM = 12  # steps; what earlier ones teach is soon out of date
PERFECT = 1e-26  # mean square residual that is rounding alone
CHUNK_FLOATS = 4_000_000  # of member x row x parameter; bounds the memory


@dataclass(frozen=True)
class Robust:
    """How strays are counted: as squares up to about `scale` in log loss, beyond by less.

    "soft_l1" turns linear smoothly, rho(s) = 2 (sqrt(1 + s) - 1); "huber" is s up to 1, then
    2 sqrt(s) - 1; "student", log(1 + s), all but ignores rows far off. Without a scale it is
    twice the noise that the median residual shows.
    """

    kind: RobustKind = "soft_l1"
    scale: float | None = None

    def rho(self, s: Array) -> Array:
        """The loss, of the squared residual over the squared scale."""
        if self.kind == "huber":
            return np.where(s <= 1, s, 2 * np.sqrt(s) - 1)
        if self.kind == "student":
            return np.asarray(np.log1p(s))
        return np.asarray(2 * s / (1 + np.sqrt(1 + s)))  # exact where s is tiny

    def slopes(self, s: Array) -> tuple[Array, Array]:
        """rho' and rho' + 2 s rho'': how the residual pulls, and how that pull grows."""
        if self.kind == "huber":
            return 1 / np.sqrt(np.maximum(s, 1)), np.where(s <= 1, 1.0, 0.0)
        if self.kind == "student":
            return 1 / (1 + s), np.maximum(1 - s, 0) / (1 + s) ** 2
        root = np.sqrt(1 + s)
        return 1 / root, root**-3


@dataclass(frozen=True)
class Members:
    """What each member of a batch starts from and minimises."""

    values: Array  # (member, parameter)
    weights: Array | None  # (member, row); None is 1 everywhere
    pull: Array  # (member,), of the penalty
    scale: Array  # (member,), of the robust loss, in log loss

    @classmethod
    def of(
        cls, values: Array, *, scale: float, pull: float = 0.0, weights: Array | None = None
    ) -> "Members":
        """Members that share scale and pull."""
        count = len(values)
        return cls(values, weights, np.full(count, float(pull)), np.full(count, float(scale)))

    def take(self, index: np.ndarray) -> "Members":
        """The members of that index or mask."""
        weights = None if self.weights is None else self.weights[index]
        return Members(self.values[index], weights, self.pull[index], self.scale[index])


@dataclass(frozen=True)
class Ends:
    """Where each member's search ended."""

    values: Array  # (member, parameter)
    cost: Array  # (member,)
    converged: Mask  # (member,)


def minimise(
    problem: Problem, free: Mask, members: Members, *,
    robust: Robust = Robust(), tolerance: float = TOLERANCE, iterations: int = MAX_ITERATIONS,
) -> Ends:  # fmt: skip
    """Searches over the `free` parameters of every member; the others keep their values."""
    count = len(members.values)
    size = max(1, CHUNK_FLOATS // max(1, len(problem.losses) * len(problem.parameters)))
    parts = []
    for first in range(0, count, size):
        chunk = members.take(np.arange(first, min(first + size, count)))
        with np.errstate(all="ignore"):  # trial steps may overflow; they are refused
            parts.append(_Batch(problem, free, chunk, robust, tolerance).run(iterations))
    return Ends(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.cost for part in parts]),
        np.concatenate([part.converged for part in parts]),
    )


class _Batch:
    """One batch on its way; `live` numbers the members that still move."""

    def __init__(
        self, problem: Problem, free: Mask, members: Members, robust: Robust, tolerance: float
    ) -> None:
        self.problem, self.free, self.robust = problem, free, robust
        self.members, self.tolerance = members, tolerance
        self.centre, self.precision = problem.centre[free], problem.precision[free]
        kinds = np.where(self.precision > 0, np.maximum(self.precision, 1e-300) ** -0.5, np.inf)
        self.farthest = FARTHEST_STEP * np.where(problem.signed[free], kinds, 1.0)
        self.lower, self.upper = (bound[free] for bound in problem.bounds)
        count = len(members.values)
        # Rounding alone leaves this much cost, and no search gets below it.
        self.least = PERFECT * len(problem.losses)
        start = problem.z_of(members.values)[:, free]
        self.z = np.clip(start, self.lower, self.upper)
        self.live = np.arange(count)
        self.cost = self._costs(self.live, self.z)
        self.damping = np.full(count, FIRST_DAMPING)
        self.growth = np.full(count, 2.0)
        self.converged = np.zeros(count, dtype=bool)
        size = int(free.sum())
        self.slope, self.norm = np.zeros((count, size)), np.ones((count, size))
        self.curvature = np.zeros((count, size, size))
        self.learnt, self.step = np.zeros((count, size, size)), np.zeros((count, size))

    def run(self, iterations: int) -> Ends:
        """Until every member has converged or the iterations are used up."""
        stale = self.live
        for count in range(iterations if self.free.any() else 0):
            before = self.slope[stale]
            self._linearise(stale)
            if count >= LEARNT_FROM:
                self._learn(stale, before)
            stale = self._move()
            self.live = self.live[~self.converged[self.live]]
            stale = stale[~self.converged[stale]]
            if not len(self.live):
                break
        if not self.free.any():
            self.converged[:] = True
        values = self._values(np.arange(len(self.z)), self.z)
        return Ends(values, self.cost, self.converged & np.isfinite(self.cost))

    def _values(self, index: np.ndarray, z: Array) -> Array:
        values = self.members.values[index].copy()
        signed = self.problem.signed[self.free]
        values[:, self.free] = np.where(signed, z, np.exp(np.where(signed, 0.0, z)))
        return np.asarray(values)

    def _away(self, z: Array) -> Array:
        """How far shrunk parameters are from their centre, 0 for the others."""
        return np.where(self.precision > 0, z - self.centre, 0.0)

    def _costs(self, index: np.ndarray, z: Array) -> Array:
        """Cost of each member at its z, infinite where a prediction is none."""
        scale = self.members.scale[index, None]
        residuals = self.problem.residuals(self._values(index, z))
        rows = scale**2 * self.robust.rho((residuals / scale) ** 2)
        if self.members.weights is not None:
            weights = self.members.weights[index]
            rows = np.where(weights > 0, weights * rows, 0.0)
        away = np.sum(self.precision * self._away(z) ** 2, axis=1)
        cost = 0.5 * (rows.sum(axis=1) + self.members.pull[index] * away)
        return np.where(np.isfinite(cost), cost, np.inf)

    def _linearise(self, index: np.ndarray) -> None:
        """Slope and curvature of the cost at the members' z."""
        if not len(index):
            return
        values = self._values(index, self.z[index])
        scale = self.members.scale[index, None]
        residuals, jacobian = self.problem.linearised(values)
        if not self.free.all():
            jacobian = jacobian[:, :, self.free]
        pull = self.robust.slopes((residuals / scale) ** 2)[0]
        if self.members.weights is not None:
            weights = self.members.weights[index]
            pull = pull * weights
            absent = weights == 0  # whatever the law says there, it counts for nothing
            residuals[absent], jacobian[absent] = 0.0, 0.0
        penalty = self.members.pull[index, None] * self.precision
        root = np.sqrt(pull)
        jacobian *= root[:, :, None]
        slope = np.matmul((root * residuals)[:, None, :], jacobian)[:, 0]
        self.slope[index] = slope + penalty * self._away(self.z[index])
        curvature = np.matmul(np.swapaxes(jacobian, 1, 2), jacobian)
        diagonal = np.arange(curvature.shape[1])
        curvature[:, diagonal, diagonal] += penalty
        self.curvature[index] = curvature
        felt = curvature[:, diagonal, diagonal]
        self.norm[index] = np.sqrt(np.maximum(felt, 1e-14 * felt.max(axis=1, keepdims=True)))

    def _learn(self, index: np.ndarray, before: Array) -> None:
        """Corrects the curvature by what the slopes' change over the last step leaves unsaid."""
        step = self.step[index]
        model = self.curvature[index] + self.learnt[index]
        unsaid = self.slope[index] - before - np.matmul(model, step[:, :, None])[:, :, 0]
        along = np.sum(unsaid * step, axis=1)
        lengths = np.linalg.norm(unsaid / self.norm[index], axis=1) * np.linalg.norm(
            step * self.norm[index], axis=1
        )
        safe = np.abs(along) > 1e-6 * lengths
        ranks = unsaid[:, :, None] * unsaid[:, None, :]
        self.learnt[index] += np.where(
            safe[:, None, None], ranks / np.where(safe, along, 1.0)[:, None, None], 0.0
        )

    def _move(self) -> np.ndarray:
        """One damped step of every live member; answers which of them moved."""
        live = self.live
        trial = np.clip(self.z[live] + self._steps(live), self.lower, self.upper)
        step = trial - self.z[live]
        bent = np.matmul(self.curvature[live] + self.learnt[live], step[:, :, None])[:, :, 0]
        foretold = -np.sum(step * (self.slope[live] + 0.5 * bent), axis=1)
        cost = self._costs(live, trial)
        fall = self.cost[live] - cost
        accepted = (fall > 0) & (foretold > 0)
        # A member whose start was no prediction takes any step that is one.
        accepted |= np.isinf(self.cost[live]) & np.isfinite(cost)
        small = np.maximum(foretold, np.where(accepted, fall, 0)) <= (
            self.tolerance * self.cost[live] + self.least
        )
        gain = np.where(np.isfinite(fall), fall / np.maximum(foretold, 1e-300), 1.0)
        wrong = ~(foretold >= 0)  # what was learnt bends the cost the wrong way: forget it
        self.learnt[live[wrong]] = 0.0
        moved = live[accepted]
        self.z[moved], self.cost[moved] = trial[accepted], cost[accepted]
        self.step[moved] = step[accepted]
        self._damp(live, accepted, small & ~wrong, gain)
        return np.asarray(moved)

    def _steps(self, live: np.ndarray) -> Array:
        """Damped Newton steps, 0 for parameters held at a bound."""
        slope, z, norm = self.slope[live], self.z[live], self.norm[live]
        held = ((z <= self.lower) & (slope > 0)) | ((z >= self.upper) & (slope < 0))
        loose = np.where(held, 0.0, 1.0)
        scaled = (self.curvature[live] + self.learnt[live]) / (norm[:, :, None] * norm[:, None, :])
        scaled *= loose[:, :, None] * loose[:, None, :]
        diagonal = np.arange(scaled.shape[1])
        scaled[:, diagonal, diagonal] += self.damping[live, None] + (1 - loose)
        sloped = (-loose * slope / norm)[:, :, None]
        steps = np.linalg.solve(scaled, sloped)[:, :, 0] / norm
        # Far from the end a full step may leap to where a parameter is nothing and feels nothing.
        reach = np.max(np.abs(steps) / self.farthest, axis=1, keepdims=True)
        return np.asarray(steps / np.maximum(reach, 1.0))

    def _damp(self, live: np.ndarray, accepted: Mask, small: Mask, gain: Array) -> None:
        """Less damping after a step that did as foretold, more after a refusal."""
        damping, growth = self.damping[live], self.growth[live]
        done = (small & (damping <= LIGHT_DAMPING)) | (self.cost[live] <= self.least)
        eased = damping * np.clip(1 - (2 * gain - 1) ** 3, 0.1, 1.0)
        eased = np.where(small, np.minimum(eased, 1e-3 * damping), eased)
        raised = np.where(small, 1e-3 * damping, damping * growth)
        done |= ~accepted & (raised > MOST_DAMPING)
        self.growth[live] = np.where(accepted, 2.0, 2 * growth)
        self.damping[live] = np.maximum(np.where(accepted, eased, raised), LEAST_DAMPING)
        self.converged[live[done]] = True
