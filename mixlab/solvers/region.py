"""The mixtures that obey: bounds and sums as one polytope, and a distance to a reference.

    A r <= b,  C r = d,  sum r = 1,  KL(r || reference) <= kl_nats

Every row of A keeps the words of the constraint that it came from, so that conflicts and prices
can be told by name. Linear programs are solved by SciPy's HiGHS.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mixlab.errors import InfeasibleConstraints
from mixlab.mixture import Array
from mixlab.solvers.constraints import Constraints
from mixlab.solvers.linear import Bounds, Optimum, minimise

Bound = Literal[
    "lower", "upper", "epochs", "seen", "seen_lower",
    "group_lower", "group_upper", "linear_lower", "linear_upper", "near",
]  # fmt: skip

OF_A_SHARE = ("lower", "upper", "epochs", "seen", "seen_lower")
FIXED = 1e-11  # bounds closer than this leave a share no room
THIN = 1e-8  # a region with less room than this along some constraint is flat there


@dataclass(frozen=True)
class Row:
    """One inequality, coefficients . r <= limit, and the constraint that it came from."""

    name: str  # of the domain, group or linear constraint
    bound: Bound
    coefficients: Array  # (domain,)
    limit: float
    words: str

    @property
    def value(self) -> float:
        """The bound as it was given, before lower bounds were turned round."""
        return -self.limit if self.bound.endswith("lower") else self.limit


@dataclass(frozen=True)
class Region:
    """A feasible region; `rows` hold bounds first. `reference` is of the distance, if any."""

    domains: tuple[str, ...]
    low: Array
    high: Array
    rows: tuple[Row, ...]
    matrix: Array  # (row, domain)
    limits: Array  # (row,)
    reference: Array | None
    kl_nats: float

    @property
    def boxed(self) -> bool:
        """Whether bounds are all there is."""
        return self.reference is None and all(row.bound in OF_A_SHARE for row in self.rows)

    def least(self, slope: Array) -> tuple[float, Array]:
        """The least of slope . r over the polytope, and where: exact, by greed or by HiGHS."""
        if not self.boxed:
            found = minimise(
                slope, self.matrix, self.limits, np.ones((1, len(slope))), np.ones(1),
                [(0, 1)] * len(slope),
            )  # fmt: skip
            if found is None:
                raise InfeasibleConstraints(conflict(self))
            return found.cost, found.point
        shares, left = self.low.copy(), 1 - float(self.low.sum())
        for index in np.argsort(slope):
            more = min(left, float(self.high[index] - self.low[index]))
            shares[index] += more
            left -= more
        return float(slope @ shares), shares

    def holds(self, shares: Array, slack: float = 1e-9) -> Array:
        """Whether each mixture, (k, domain), obeys, (k,)."""
        inside = np.all(shares @ self.matrix.T <= self.limits + slack, axis=1)
        inside &= np.abs(shares.sum(axis=1) - 1) <= slack * 10
        if self.reference is not None:
            inside &= divergence(shares, self.reference) <= self.kl_nats + slack
        return np.asarray(inside)


def divergence(shares: Array, reference: Array) -> Array:
    """KL(shares || reference) in nats, over the last axis; where both are 0 nothing is added."""
    given = np.maximum(reference, 1e-300)
    logs = np.log(np.maximum(shares, 1e-300) / given)
    return np.asarray(np.sum(np.where(shares > 0, shares * logs, 0.0), axis=-1))


def region(constraints: Constraints, domains: tuple[str, ...], low: Array, high: Array) -> Region:
    """The region of these constraints, with bounds as `Constraints.bounds` or the law says."""
    rows = (
        *_bound_rows(constraints, domains, low, high),
        *_group_rows(constraints, domains),
        *_linear_rows(constraints, domains),
    )
    near = constraints.near
    return Region(
        domains=domains,
        low=low,
        high=high,
        rows=rows,
        matrix=np.array([row.coefficients for row in rows]),
        limits=np.array([row.limit for row in rows]),
        reference=None if near is None else near.mixture.shares(domains),
        kl_nats=np.inf if near is None else near.kl_nats,
    )


def _bound_rows(
    constraints: Constraints, domains: tuple[str, ...], low: Array, high: Array
) -> list[Row]:
    caps, unit = constraints.caps(domains), np.eye(len(domains))
    rows = [
        Row(name, _below(constraints, name, float(low[i])), -unit[i], -float(low[i]),
            f"{name} at least {low[i]:.4g}")
        for i, name in enumerate(domains)
    ]  # fmt: skip
    most = 1 - (low.sum() - low)  # what the other lower bounds leave
    for i, name in enumerate(domains):
        if high[i] < most[i] + FIXED:
            words = constraints.why(name, float(high[i]))
            bound = _above(constraints, name, float(caps[i]))
            rows.append(Row(name, bound, unit[i], float(high[i]), words))
    return rows


def _below(constraints: Constraints, name: str, low: float) -> Bound:
    """Which bound from below binds: that by what runs saw, or one that was given."""
    least = constraints.seen.ranges.get(name, (0.0, 1.0))[0]
    return "seen_lower" if constraints.lower.get(name, 0.0) < least == low else "lower"


def _above(constraints: Constraints, name: str, cap: float) -> Bound:
    """Which bound from above binds; where they are the same, one that was given."""
    upper = constraints.upper.get(name, 1.0)
    if constraints.seen.ranges.get(name, (0.0, 1.0))[1] < min(upper, cap):
        return "seen"
    return "epochs" if cap <= upper else "upper"


def _group_rows(constraints: Constraints, domains: tuple[str, ...]) -> list[Row]:
    rows = []
    for name, group in constraints.groups.items():
        members = np.array([float(domain in group.domains) for domain in domains])
        if group.lower > 0:
            words = f"group {name} at least {group.lower:.4g}"
            rows.append(Row(name, "group_lower", -members, -group.lower, words))
        if group.upper < 1:
            words = f"group {name} at most {group.upper:.4g}"
            rows.append(Row(name, "group_upper", members, group.upper, words))
    return rows


def _linear_rows(constraints: Constraints, domains: tuple[str, ...]) -> list[Row]:
    rows = []
    for one in constraints.linear:
        values = np.array([one.coefficients.get(domain, 0.0) for domain in domains])
        if np.isfinite(one.lower):
            words = f"{one.label} at least {one.lower:.4g}"
            rows.append(Row(one.label, "linear_lower", -values, -one.lower, words))
        if np.isfinite(one.upper):
            words = f"{one.label} at most {one.upper:.4g}"
            rows.append(Row(one.label, "linear_upper", values, one.upper, words))
    return rows


@dataclass(frozen=True)
class Inside:
    """A point with room on every side, and the rows that leave no room: they hold as equalities."""

    shares: Array
    equal: tuple[int, ...]


def inside(found: Region) -> Inside:
    """A point inside the polytope. Raises InfeasibleConstraints, naming those in conflict."""
    room = found.high - found.low
    left = 1 - float(found.low.sum())
    if found.boxed and left > THIN and room.min() > FIXED and room.sum() > left + THIN:
        return Inside(found.low + room * (left / float(room.sum())), ())
    width = _widths(found)
    fixed = width <= FIXED
    width[fixed] = 0.0
    shares = _roomiest(found, width, least=None)
    if shares is not None:
        return Inside(shares, tuple(np.flatnonzero(fixed).tolist()))
    # Where some rows leave no room: let each take up to a little, and see which can't.
    count, cap = len(found.rows), 1e-5
    answer = _extended(found, np.full(count, -1.0), np.diag(width), [(0, cap)] * count, slack=FIXED)
    if answer is None:
        raise InfeasibleConstraints(conflict(found))
    equal = fixed | (answer.point[len(found.domains) :] < 0.5 * cap)
    shares = _roomiest(found, np.where(equal, 0.0, width), least=0.0)
    if shares is None:
        shares = answer.point[: len(found.domains)]
    return Inside(shares, tuple(np.flatnonzero(equal).tolist()))


def _widths(found: Region) -> Array:
    """Room is measured against what a row can have, so that narrow bounds count as wide."""
    room, width = found.high - found.low, np.ones(len(found.rows))
    for index, row in enumerate(found.rows):
        if row.bound in OF_A_SHARE:
            width[index] = min(1.0, max(room[found.domains.index(row.name)], FIXED))
    return width


def _roomiest(found: Region, width: Array, *, least: float | None) -> Array | None:
    """The point with the most room by every row that has a width; None where there is none.

    Raises InfeasibleConstraints where even the best point breaks a row.
    """
    slack = 0.0 if least is None else FIXED
    answer = _extended(found, np.array([-1.0]), width[:, None], [(least, 1.0)], slack=slack)
    if answer is None or answer.point[-1] <= THIN:
        if answer is None or answer.point[-1] < -THIN:
            raise InfeasibleConstraints(conflict(found))
        return None if least is None else answer.point[:-1]
    return answer.point[:-1]


def conflict(found: Region) -> str:
    """Which constraints contradict each other, and by how much one must give way.

    The least total violation is a linear program; its multipliers are those of a proof that the
    rest can't hold together, so the rows that carry some are the ones in conflict.
    """
    count = len(found.rows)
    answer = _extended(found, np.ones(count), -np.eye(count), [(0, None)] * count)
    if answer is None:
        return "No mixture obeys all constraints; leave some out."
    guilty = np.flatnonzero(np.abs(answer.prices) > 1e-7)
    named = [found.rows[index].words for index in guilty if found.rows[index].value != 0]
    names = "; ".join(named[:12]) + ("; ..." if len(named) > 12 else "")
    return (
        f"No mixture obeys all constraints; these contradict each other: {names}. "
        f"Loosen them by {answer.cost:.4g} in all."
    )


def _extended(
    found: Region, cost: Array, columns: Array, bounds: Bounds, *, slack: float = 0.0
) -> Optimum | None:
    """A linear program over shares and further variables, which alone cost something."""
    size = len(found.domains)
    return minimise(
        np.append(np.zeros(size), cost),
        np.hstack([found.matrix, columns]),
        found.limits + slack,
        np.append(np.ones(size), np.zeros(len(cost)))[None, :],
        np.ones(1),
        [(None, None)] * size + list(bounds),
    )
