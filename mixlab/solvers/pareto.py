"""What one objective costs in terms of another: the front of two.

Each point minimises (1 - theta) a + theta b. The first two lean to one side; then, again and
again, theta is that of the line through the two neighbours farthest apart, whose solution lies
farthest below the line (Cohon's non-inferior set estimation). For convex laws every efficient
mixture is found in this way with enough points; for others those of the convex hull.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

from mixlab.errors import InvalidInput
from mixlab.fitting import Fit
from mixlab.solvers.constraints import Constraints
from mixlab.solvers.mixing import solve_problem
from mixlab.solvers.objective import Objective
from mixlab.solvers.problem import problem
from mixlab.solvers.solution import Solution

LEAN = 1e-3  # of the other objective at the ends, so that ends are efficient too
SAME = 1e-7  # nats


@dataclass(frozen=True)
class ParetoPoint:
    """An efficient mixture: neither objective can fall without the other rising.

    The solution's objective is the first one; its gap, multiplier and prices are those of the
    sum (1 - theta) a + theta b.
    """

    solution: Solution
    a_nats: float
    b_nats: float
    theta: float


def pareto(
    fit: Fit,
    objective_a: Objective,
    objective_b: Objective,
    constraints: Constraints | None = None,
    *,
    points: int = 11,
) -> list[ParetoPoint]:
    """At most `points` efficient mixtures, from the best for a to the best for b.

    Fewer where the front has fewer corners than that. Raises as `solve` does.
    """
    if points < 2:
        raise InvalidInput(f"A front has at least its 2 ends, not {points} points.")
    limits = constraints or Constraints()

    def at(theta: float) -> ParetoPoint:
        return _point(fit, objective_a, objective_b, limits, theta)

    front, done = [at(LEAN), at(1 - LEAN)], set[tuple[float, float]]()
    while len(front) < points:
        gaps = [
            (_apart(front, left, right), index)
            for index, (left, right) in enumerate(pairwise(front))
            if (left.theta, right.theta) not in done
        ]
        if not gaps or max(gaps)[0] <= 0:
            break
        index = max(gaps)[1]
        left, right = front[index], front[index + 1]
        fall, rise = left.b_nats - right.b_nats, right.a_nats - left.a_nats
        found = at(rise / (rise + fall)) if min(rise, fall) > SAME else None
        if found is None or not _below(found, left, right):
            done.add((left.theta, right.theta))
            continue
        front.insert(index + 1, found)
    return front


def _point(
    fit: Fit, first: Objective, second: Objective, constraints: Constraints, theta: float
) -> ParetoPoint:
    both = problem(fit, [first, second], constraints, scales=[1 - theta, theta])
    solution = solve_problem(both)
    shares = solution.mixture.shares(fit.domains)[None, :]
    a, b = (float(block.values(shares)[0]) for block in both.program.blocks)
    return ParetoPoint(replace(solution, objective_nats=a), a, b, theta)


def _apart(front: list[ParetoPoint], left: ParetoPoint, right: ParetoPoint) -> float:
    """How far apart two points are, each objective in units of the whole front."""
    a = abs(front[-1].a_nats - front[0].a_nats)
    b = abs(front[-1].b_nats - front[0].b_nats)
    if min(a, b) <= SAME:
        return 0.0
    return abs(right.a_nats - left.a_nats) / a + abs(right.b_nats - left.b_nats) / b


def _below(found: ParetoPoint, left: ParetoPoint, right: ParetoPoint) -> bool:
    """Whether a point lies below the line through its neighbours."""
    line = (1 - found.theta) * left.a_nats + found.theta * left.b_nats
    return line - ((1 - found.theta) * found.a_nats + found.theta * found.b_nats) > SAME and (
        left.a_nats < found.a_nats < right.a_nats
    )
