"""Minimising a smooth convex program: a primal-dual interior-point method, and a bound below.

Newton's method on the conditions of optimality with lambda * slack = mu, from a point with room on
every side that keeps its room, mu falling to 0 as fast as the last step allowed (Boyd and
Vandenberghe, Convex Optimization, 11.7; the centring and the second-order correction are those of
Mehrotra 1992). Second derivatives come from differences of analytic slopes, so that it takes some
ten steps; a quasi-Newton method, SciPy's SLSQP, takes three times as many on the same problem, and
can't be used for values at risk, with a variable per replicate (benchmarks/solve_speed.py).

The bound needs none of that to be right: a convex cost lies above its tangents, so the least of
the linearised program, by HiGHS, is below the optimum, whatever the point.
"""

from dataclasses import dataclass, replace

import numpy as np

from mixlab.mixture import Array
from mixlab.solvers.linear import minimise
from mixlab.solvers.program import Point, Program
from mixlab.solvers.region import Inside

STEPS = 40
# Halvings of a step that aims far, and of one that only goes back to the middle.
FEW, MANY = 2, 12
SHORT = 0.3
KEEP = 0.995  # of the way to the nearest side


@dataclass(frozen=True)
class Optimum:
    """Where the search ended, with the multipliers of linear and curved constraints."""

    point: Point
    sides: Array  # (linear constraint,)
    curved: Array  # (curved constraint,)
    steps: int

    @property
    def x(self) -> Array:
        """Shares, then extras."""
        return self.point.x


@dataclass(frozen=True)
class _Linear:
    """matrix x <= limits with room, and equal x = values throughout."""

    matrix: Array
    limits: Array
    equal: Array


@dataclass(frozen=True)
class _State:
    point: Point
    multipliers: Array  # linear first
    prices: Array  # of the equalities
    slack: Array
    slopes: Array  # of all inequalities, (inequality, variable)
    excess: Array  # curved constraint + slack, 0 of linear ones; the search brings it to 0
    step: float = 1.0  # by which it was reached

    @property
    def dual(self) -> Array:
        """What is left of the cost's slope, but for the equalities."""
        return np.asarray(self.point.slope + self.multipliers @ self.slopes)


def interior(program: Program, start: Inside, *, tolerance: float = 1e-9) -> Optimum:
    """The optimum to about `tolerance` nats."""
    linear, kept = _linear(program, start)
    x = program.begin(start.shares)
    point = program.at(x)
    if not len(linear.limits) + len(point.limits):  # the constraints leave one mixture
        return Optimum(point, np.zeros(len(program.sides()[1])), point.limits, 0)
    room = np.maximum(-point.limits, 1e-3)
    state = _state(linear, point, np.zeros(0), np.zeros(len(linear.equal)), room)
    state = replace(state, multipliers=_first(program, state) / state.slack)
    steps = 0
    while steps < STEPS and not _done(linear, state, tolerance):
        moved = _step(program, linear, state)
        if moved is None:
            break
        state, steps = moved, steps + 1
    sides = np.zeros(len(program.sides()[1]))
    count = len(linear.limits)
    sides[kept] = state.multipliers[:count]
    return Optimum(state.point, sides, state.multipliers[count:], steps)


def _linear(program: Program, start: Inside) -> tuple[_Linear, Array]:
    """The linear constraints, those without room as equalities; and which kept theirs."""
    matrix, limits = program.sides()
    total = np.zeros((1, matrix.shape[1]))
    total[0, : program.size] = 1.0
    rows = np.vstack([total, matrix[list(start.equal)]])
    _, sizes, axes = np.linalg.svd(rows, full_matrices=False)
    kept = np.setdiff1d(np.arange(len(limits)), start.equal)
    if start.equal:  # what the equalities decide alone has no room to be an inequality
        basis = axes[sizes > 1e-9 * sizes[0]]
        free = matrix[kept] - (matrix[kept] @ basis.T) @ basis
        kept = kept[np.abs(free).max(axis=1) > 1e-9]
    return _Linear(matrix[kept], limits[kept], axes[sizes > 1e-9 * sizes[0]]), kept


def _state(linear: _Linear, point: Point, multipliers: Array, prices: Array, room: Array) -> _State:
    """A state whose curved constraints have the slack that they have, or `room` if that is more."""
    room = np.maximum(room, -point.limits)
    slack = np.concatenate([linear.limits - linear.matrix @ point.x, room])
    excess = np.concatenate([np.zeros(len(linear.limits)), point.limits + room])
    slopes = np.vstack([linear.matrix, point.slopes])
    return _State(point, multipliers, prices, slack, slopes, excess)


def _done(linear: _Linear, state: _State, tolerance: float) -> bool:
    left = state.dual + state.prices @ linear.equal
    return bool(
        state.multipliers @ state.slack < tolerance
        and np.abs(left).max() < 10 * tolerance
        and np.abs(state.excess).max() < tolerance
    )


def _first(program: Program, state: _State) -> float:
    """The first lambda * slack: of the size of what is still to gain, over all constraints."""
    slope = state.point.slope[: program.size]
    gain = 0.0
    if np.ptp(slope) > 0:
        gain = float(slope @ state.point.x[: program.size] - slope.min())
    lifted = state.point.limits[: len(state.point.limits)]
    gain += float(np.mean(-lifted)) if len(lifted) else 0.0
    return max(gain, 1e-7) / max(1, len(state.slack))


def _step(program: Program, linear: _Linear, state: _State) -> _State | None:
    """One Newton step; None where the search can get no further."""
    count, size = len(state.point.x), program.size
    curved = state.multipliers[len(linear.limits) :]
    bend = np.zeros((count + len(linear.equal),) * 2)
    bend[:size, :size] = program.bend(state.point, curved)
    weighted = state.slopes * (state.multipliers / state.slack)[:, None]
    bend[:count, :count] += state.slopes.T @ weighted
    bend[count:, :count], bend[:count, count:] = linear.equal, linear.equal.T
    try:
        return _predicted_and_corrected(program, linear, state, bend)
    except np.linalg.LinAlgError:
        return None


def _predicted_and_corrected(
    program: Program, linear: _Linear, state: _State, bend: Array
) -> _State | None:
    """A step toward the centre, by as much as a step straight to the optimum would miss it."""
    towards = state.multipliers * state.slack
    _, change, _, fall = _direction(bend, state, linear, -towards)
    reach = _reach(state, fall, change)
    product = float(towards.mean())
    left = float(np.mean((state.slack + reach * fall) * (state.multipliers + reach * change)))
    aim = product * min(1.0, max(left / product, 1e-3)) ** 3
    tries = (
        (aim, fall * change, FEW),
        (max(aim, 0.2 * product), 0.0 * fall, FEW),
        (0.8 * product, 0.0 * fall, MANY),
    )
    # After a short step, going for the optimum again would only lead to another.
    for wanted, corrected, halvings in tries if state.step > SHORT else tries[-1:]:
        direction = _direction(bend, state, linear, wanted - towards - corrected)
        moved = _along(program, linear, state, direction, wanted, halvings)
        if moved is not None:
            return moved
    return None


def _direction(
    bend: Array, state: _State, linear: _Linear, wanted: Array
) -> tuple[Array, Array, Array, Array]:
    """Changes of x, multipliers, prices and slack at which lambda * slack changes by `wanted`."""
    left = state.dual + state.prices @ linear.equal
    right = -left - ((wanted + state.multipliers * state.excess) / state.slack) @ state.slopes
    count = len(right)
    found = np.asarray(
        np.linalg.solve(bend, np.append(right, np.zeros(len(linear.equal)))), dtype=float
    )
    along = found[:count]
    fall = np.asarray(-state.excess - state.slopes @ along)
    change = np.asarray((wanted - state.multipliers * fall) / state.slack)
    return along, change, found[count:], fall


def _reach(state: _State, fall: Array, change: Array) -> float:
    """How far along slacks and multipliers stay above 0, at most 1."""
    return min(1.0, _farthest(state.slack, fall), _farthest(state.multipliers, change))


def _farthest(values: Array, changes: Array) -> float:
    falling = changes < 0
    return float(np.min(-values[falling] / changes[falling])) if falling.any() else 1.0


def _along(
    program: Program, linear: _Linear, state: _State,
    direction: tuple[Array, Array, Array, Array], aim: float, halvings: int,
) -> _State | None:  # fmt: skip
    """The farthest step along that leaves less of the conditions unmet."""
    along, change, prices, fall = direction
    step = min(1.0, KEEP * _reach(state, fall, change))
    unmet, count = _unmet(linear, state, aim), len(linear.limits)
    for _ in range(1 + halvings):
        moved = _state(
            linear,
            program.at(state.point.x + step * along),
            state.multipliers + step * change,
            state.prices + step * prices,
            # What curvature takes of the slack is taken from it, as long as some is left.
            0.5 * (state.slack + step * fall)[count:],
        )
        if moved.slack.min() > 0 and _unmet(linear, moved, aim) <= (1 - 0.01 * step) * unmet:
            return replace(moved, step=step)
        step *= 0.5
    return None


def _unmet(linear: _Linear, state: _State, aim: float) -> float:
    left = state.dual + state.prices @ linear.equal
    centring = state.multipliers * state.slack - aim
    return float(np.linalg.norm(np.concatenate([left, centring, state.excess])))


def bound_below(program: Program, point: Point) -> float:
    """A number that the objective of no mixture in the region lies under, where convex."""
    x, cost = point.x, program.cost(point.x)
    if not len(point.limits):
        slope = point.slope[: program.size]
        return cost - float(slope @ x[: program.size]) + program.region.least(slope)[0]
    matrix, limits = program.sides()
    total = np.zeros((1, len(x)))
    total[0, : program.size] = 1.0
    free: list[tuple[float | None, float | None]] = [(None, None)] * len(x)
    found = minimise(
        point.slope,
        np.vstack([matrix, point.slopes]),
        np.append(limits, point.slopes @ x - point.limits),
        total,
        np.ones(1),
        free,
    )
    return -np.inf if found is None else cost + found.cost - float(point.slope @ x)
