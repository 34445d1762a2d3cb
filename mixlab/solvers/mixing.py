"""From a fit to the mixture that it predicts to be best.

    minimise  objective(losses(r, step))   over mixtures r that obey the constraints

Exactly for laws that at a fixed step are a power of the own share under plain bounds
(separable.py); to a certified gap for any convex law (interior.py); from several starts for other
smooth laws (local.py); by samples for laws without slopes. Limits: the law's own; the solution's
notes say where it leaves the shares and steps seen.
"""

from dataclasses import replace

import numpy as np

from mixlab.fitting import Fit, FitStatus
from mixlab.fitting.seen import outside_seen
from mixlab.laws import Mask
from mixlab.mixture import Array, Mixture
from mixlab.solvers import prices as pricing
from mixlab.solvers.constraints import Constraints
from mixlab.solvers.interior import Optimum, bound_below, interior
from mixlab.solvers.local import search, slope_at
from mixlab.solvers.objective import Objective
from mixlab.solvers.power_laws import separable, solve_powers
from mixlab.solvers.problem import Problem, View, problem
from mixlab.solvers.program import Program
from mixlab.solvers.region import Row, region
from mixlab.solvers.repetition import Discounted
from mixlab.solvers.sampling import best_of_samples
from mixlab.solvers.solution import CERTIFIED, Solution, SolutionStatus
from mixlab.solvers.trust import trusted

RESTARTS = 4
APPROACHED = 1e-5  # share; a side with a price that is nearer than this is touched
FLAT = 1e-7  # nats per squared share; half of it is what moving by a whole share would cost


def solve(fit: Fit, objective: Objective, constraints: Constraints | None = None) -> Solution:
    """The mixture with the smallest objective under the constraints; see the module.

    Raises InfeasibleConstraints, TooFewMixtures where a weighted target's response to its
    share is not known, and InvalidTable for targets or laws that can't be solved so.
    """
    constraints = trusted(constraints or Constraints(), fit.domains, fit.shares_seen)
    if separable(fit, objective, constraints):
        return _by_powers(fit, objective, constraints)
    return solve_problem(problem(fit, [objective], constraints))


def solve_problem(found: Problem) -> Solution:
    """The solution of a problem that is no plain sum of powers."""
    if not found.smooth:
        shares = best_of_samples(found)
        return _solution(found, shares, None, None, SolutionStatus.SAMPLED)
    if not found.convex:
        shares = search(found)
        slope = slope_at(found.program, shares)
        return _solution(found, shares, slope, None, SolutionStatus.LOCAL)
    optimum, shares, gap = _certified(found)
    status = SolutionStatus.OPTIMAL if gap <= CERTIFIED else SolutionStatus.INEXACT
    if status is SolutionStatus.OPTIMAL and _flat(found.program, optimum):
        status = SolutionStatus.NOT_UNIQUE
    told = gap if np.isfinite(gap) else None
    return _solution(found, shares, _balanced_slope(found.program, optimum), told, status)


def _certified(found: Problem) -> tuple[Optimum, Array, float]:
    """The optimum, its shares and their gap; begun again from where a search stalls."""
    program, start, least = found.program, found.start, -np.inf
    best: tuple[Optimum, Array, float] | None = None
    for _ in range(RESTARTS):
        optimum = interior(program, start)
        shares = _snapped(found, optimum)
        least = max(least, bound_below(program, optimum.point))
        gap = max(0.0, program.value(shares) - least)
        if best is None or gap < best[2]:
            best = (optimum, shares, gap)
        if gap <= CERTIFIED:
            break
        nearer = 0.9 * optimum.x[: program.size] + 0.1 * found.start.shares
        start = replace(found.start, shares=nearer)
    assert best is not None
    return best


def _balanced_slope(program: Program, optimum: Optimum) -> Array:
    """The objective's slope by the shares, pieces weighed by their multipliers."""
    point = optimum.point
    count = len(point.limits) - (program.region.reference is not None)
    slope = point.slope + optimum.curved[:count] @ point.slopes[:count]
    return np.asarray(slope[: program.size])


def _snapped(found: Problem, optimum: Optimum) -> Array:
    """Shares moved, by as little as can be, onto the sides that they approach."""
    limits, size = found.region, len(found.region.domains)
    shares = optimum.x[:size]
    slack = limits.limits - limits.matrix @ shares
    near = (optimum.sides[: len(slack)] > slack) & (slack < APPROACHED)
    near[list(found.start.equal)] = True
    rows = np.vstack([limits.matrix[near], np.ones((1, size))])
    missing = np.append(limits.limits[near], 1.0) - rows @ shares
    moved = shares + np.linalg.lstsq(rows, missing, rcond=1e-10)[0]
    moved = np.clip(moved, found.low, found.high)
    return moved if limits.holds(moved[None, :])[0] else shares


def _flat(program: Program, optimum: Optimum) -> bool:
    """Whether the objective stays the same along some way that stays in the region."""
    point = optimum.point
    matrix, limits = program.sides()
    slack = np.concatenate([limits - matrix @ optimum.x, -point.limits])
    rows = np.vstack([matrix, point.slopes])
    multipliers = np.concatenate([optimum.sides, optimum.curved])
    total = np.zeros((1, rows.shape[1]))
    total[0, : program.size] = 1.0
    held = np.vstack([total, rows[(multipliers > slack) | (slack < 1e-10)]])
    _, sizes, axes = np.linalg.svd(held)
    free = axes[int((sizes > 1e-9 * sizes[0]).sum()) :, : program.size]
    _, sizes, axes = np.linalg.svd(free, full_matrices=False)
    free = axes[sizes > 1e-6]
    if not len(free):
        return False
    bend = program.bend(point, optimum.curved)
    bends = np.linalg.eigvalsh(free @ bend @ free.T)
    return bool(bends[0] < FLAT + 1e-10 * abs(bends[-1]))


def _solution(
    found: Problem, shares: Array, slope: Array | None, gap: float | None, status: SolutionStatus
) -> Solution:
    fit, objective, constraints = found.fit, found.objectives[0], found.constraints
    surface = found.surfaces[0]
    near = np.isfinite(found.region.kl_nats) and status is not SolutionStatus.SAMPLED
    even = pricing.Balance(0.0, np.zeros(len(found.region.rows)), 0.0)
    balance = even if slope is None else pricing.balance(found.region, shares, slope, near=near)
    touched = pricing.active(found.region, shares, balance)
    at_most = gap is not None
    prices = pricing.statements(touched, constraints, at_most=at_most)
    if isinstance(surface, Discounted) and slope is not None:
        prices += pricing.of_repeats(
            surface, shares, slope, constraints.budget_tokens or np.inf, at_most=at_most
        )
    mixture = Mixture.of(fit.domains, shares)
    return Solution(
        mixture=mixture,
        objective_nats=found.program.value(shares),
        predicted_nats=_predicted(surface, shares),
        step=objective.step,
        multiplier=balance.multiplier,
        active=touched,
        epochs=_epochs(constraints, mixture),
        status=status,
        notes=(
            *constraints.seen.notes,
            *_notes(fit, objective, surface, shares),
            *_more_notes(found, status),
        ),
        gap_nats=gap,
        prices=tuple(prices),
    )


def _by_powers(fit: Fit, objective: Objective, constraints: Constraints) -> Solution:
    surface, found, slope, low, high = solve_powers(fit, objective, constraints)
    limits = region(constraints, fit.domains, low, high)
    balance = _of_split(found.multiplier, slope, low, high, limits.rows, fit.domains)
    touched = pricing.active(limits, found.shares, balance)
    mixture = Mixture.of(fit.domains, found.shares)
    predicted = _predicted(surface, found.shares)
    weights = objective.weighted(surface.targets)
    return Solution(
        mixture=mixture,
        objective_nats=float(sum(weight * predicted[name] for name, weight in weights.items())),
        predicted_nats=predicted,
        step=objective.step,
        multiplier=found.multiplier,
        active=touched,
        epochs=_epochs(constraints, mixture),
        status=SolutionStatus.OPTIMAL if found.unique else SolutionStatus.NOT_UNIQUE,
        notes=(*constraints.seen.notes, *_notes(fit, objective, surface, found.shares)),
        gap_nats=0.0,
        prices=tuple(pricing.statements(touched, constraints)),
    )


def _of_split(
    multiplier: float, slope: Array, low: Array, high: Array, rows: tuple[Row, ...],
    domains: tuple[str, ...],
) -> pricing.Balance:  # fmt: skip
    """Prices of the bounds from the one multiplier of the exact way."""
    prices = []
    for row in rows:
        index = domains.index(row.name)
        gain = multiplier + float(slope[index])
        prices.append(max(0.0, gain if row.bound.endswith("lower") else -gain))
    return pricing.Balance(multiplier, np.array(prices), 0.0)


def _predicted(surface: View, shares: Array) -> dict[str, float]:
    """Losses of all targets but those that are infinite for want of a share."""
    plain = surface.surface if isinstance(surface, Discounted) else surface
    fine: Mask = plain.defined_at_zero | np.array(
        [part.own is None or shares[part.own] > 0 for part in plain.parts]
    )
    names = [name for name, one in zip(surface.targets, fine, strict=True) if one]
    if not names:
        return {}
    losses = surface.only(names).losses(shares[None, :])[0]
    return dict(zip(names, losses.tolist(), strict=True))


def _epochs(constraints: Constraints, mixture: Mixture) -> dict[str, float] | None:
    if constraints.budget_tokens is None:
        return None
    available = constraints.tokens_available or {}
    return {
        name: share * constraints.budget_tokens / available[name]
        for name, share in mixture
        if name in available
    }


def _notes(fit: Fit, objective: Objective, surface: View, shares: Array) -> tuple[str, ...]:
    blind = [name for name, one in zip(fit.domains, _blind(surface), strict=True) if one]
    notes = [f"{name} has no target, so nothing is known of what its share does" for name in blind]
    told = {name: share for name, share in zip(fit.domains, shares.tolist(), strict=True)}
    notes += outside_seen(fit, told, step=objective.step, params=objective.params, without=blind)
    notes += [
        f"{name}'s fit is {found.status}: {found.reason}"
        for name, found in fit.targets.items()
        if found.status is not FitStatus.CONVERGED
    ]
    return tuple(notes)


def _blind(surface: View) -> Mask:
    """Domains that no target looks at: none is named after them, and all see their own alone."""
    plain = surface.surface if isinstance(surface, Discounted) else surface
    if any(part.law.power_law is None for part in plain.parts):
        return np.zeros(len(plain.domains), dtype=bool)
    own = {part.own for part in plain.parts}
    return np.array([index not in own for index in range(len(plain.domains))])


def _more_notes(found: Problem, status: SolutionStatus) -> list[str]:
    notes = []
    if status is SolutionStatus.LOCAL:
        notes.append(
            "the law is not convex here, so the mixture is the best of several searches; a better "
            "one may exist"
        )
    if status is SolutionStatus.SAMPLED:
        notes.append(
            "the law has no slopes, so the mixture is the mean of the best of many samples"
        )
    views = [block.surface for block in found.program.blocks]
    if any(isinstance(one, Discounted) and not one.falls for one in views):
        notes.append(
            "some loss rises with a share, so what it says of shares that sum to less than 1, as "
            "they do after the discount on repeats, is a guess"
        )
    return notes
