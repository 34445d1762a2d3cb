"""From a fit, an objective and constraints to a program over a region.

Lower bounds are raised where the law asks for it: off 0 where a loss diverges there, and to the
share floor of a fit that reads smaller shares as that floor, below which it says nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import fsum

import numpy as np

from mixlab.errors import InfeasibleConstraints, InvalidTable, TooFewMixtures
from mixlab.fitting import Fit
from mixlab.fitting.surface import Surface
from mixlab.fitting.surface import surface as surface_of
from mixlab.laws import Mask
from mixlab.mixture import Array
from mixlab.solvers.constraints import DEFAULT_LOWER, SLACK, Constraints
from mixlab.solvers.objective import Objective, score
from mixlab.solvers.program import Block, Program
from mixlab.solvers.region import Inside, Region, region
from mixlab.solvers.repetition import Discounted
from mixlab.solvers.start import started
from mixlab.solvers.trust import trusted

View = Surface | Discounted


@dataclass(frozen=True)
class Problem:
    """What is solved: several objectives are added up by their scales."""

    fit: Fit
    objectives: tuple[Objective, ...]
    constraints: Constraints
    surfaces: tuple[View, ...]  # of all targets, one per objective
    program: Program
    region: Region
    start: Inside
    low: Array
    high: Array

    @property
    def convex(self) -> bool:
        """Whether a local optimum is a global one."""
        convex = all(block.surface.convex for block in self.program.blocks)
        return convex and all(_clear_of_floor(one, self.low, self.high) for one in self.surfaces)

    @property
    def smooth(self) -> bool:
        """Whether slopes are known."""
        return all(block.surface.smooth for block in self.program.blocks)


def problem(
    fit: Fit,
    objectives: Sequence[Objective],
    constraints: Constraints,
    *,
    scales: Sequence[float] = (1.0,),
) -> Problem:
    """Everything checked and laid out. Raises as `solve` does."""
    constraints = trusted(constraints, fit.domains, fit.shares_seen)
    surfaces = [view(fit, objective, constraints) for objective in objectives]
    weighed = [
        one.only(objective.weighted(fit_targets(fit)))
        for one, objective in zip(surfaces, objectives, strict=True)
    ]
    for one in weighed:
        check_identified(fit, one.targets)
    low, high = bounds(weighed, constraints, fit.domains)
    found = region(constraints, fit.domains, low, high)
    start = started(found)
    weighed = [_convexity(one, found, start.shares, low) for one in weighed]
    blocks = [
        Block(_risky(one, objective), score(objective, fit_targets(fit)), scale)
        for one, objective, scale in zip(weighed, objectives, scales, strict=True)
    ]
    return Problem(
        fit, tuple(objectives), constraints, tuple(surfaces), Program(blocks, found), found,
        start, low, high,
    )  # fmt: skip


def _clear_of_floor(one: View, low: Array, high: Array) -> bool:
    """Whether no share can cross the share floor, where a falling loss turns flat: a bend down."""
    if isinstance(one, Discounted):
        low, high = one.effective(low), one.effective(high)
    above, below = low >= one.share_floor * (1 - 1e-9), high <= one.share_floor
    return bool(np.all(above | below))


def fit_targets(fit: Fit) -> tuple[str, ...]:
    """Targets in the fit's order."""
    return tuple(fit.targets)


def view(fit: Fit, objective: Objective, constraints: Constraints) -> View:
    """The fit at the objective's step and size, with repeats discounted where asked."""
    plain = surface_of(fit, objective.step, params=objective.params)
    if constraints.repetition is None:
        return plain
    unique = constraints.repetition.unique_shares(
        fit.domains, constraints.tokens_available or {}, constraints.budget_tokens or np.inf
    )
    return Discounted(plain, unique, constraints.repetition.r_star)


def check_identified(fit: Fit, targets: Sequence[str]) -> None:
    """Raise where the fit knows nothing of how a target's loss responds to the mixture."""
    for target in targets:
        found = fit.target(target)
        law = found.law
        if not law.needs_mixture:
            raise InvalidTable(
                f"The law {law.name} of target {target!r} doesn't see the mixture, so every "
                "mixture is as good; fit a law that does."
            )
        if law.power_law is not None and "alpha" in found.unidentified:
            raise TooFewMixtures(
                f"Target {target!r} can't be optimised: {found.reason}. Observe mixtures in "
                "which that share differs, or give the target no weight."
            )


def bounds(
    surfaces: Sequence[View], constraints: Constraints, domains: tuple[str, ...]
) -> tuple[Array, Array]:
    """Bounds of each share, off 0 where a loss that weighs is infinite there."""
    low, high = constraints.bounds(domains)
    own: Mask = np.zeros(len(domains), dtype=bool)
    floor = 0.0
    for one in surfaces:
        plain = one.surface if isinstance(one, Discounted) else one
        floor = max(floor, plain.share_floor)
        for part, defined in zip(plain.parts, plain.defined_at_zero, strict=True):
            if not defined:
                own |= np.arange(len(domains)) == part.own if part.own is not None else True
    low = off_zero(domains, own, low, high)
    raised = np.maximum(low, np.minimum(floor, high))
    return (raised if fsum(raised) <= 1 else low), high


def off_zero(domains: Sequence[str], diverges: Mask, low: Array, high: Array) -> Array:
    """Lower bounds raised off 0 where a loss diverges. Raises where there is no room for it."""
    for index in np.flatnonzero(diverges & (high <= 0)).tolist():
        raise InfeasibleConstraints(
            f"The upper bound of {domains[index]!r} is 0, where its predicted loss is infinite; "
            "give its target no weight, or allow it a share."
        )
    room = 1 - float(low.sum())
    starved = [domains[index] for index in np.flatnonzero(diverges & (low <= 0)).tolist()]
    if starved and room <= SLACK:
        raise InfeasibleConstraints(
            f"The lower bounds leave nothing for {', '.join(map(repr, starved))}, where the "
            "predicted loss is infinite at a share of 0; lower them, or give no weight there."
        )
    small = min(DEFAULT_LOWER, 0.1 * max(room, 0.0) / len(low))
    return np.where(diverges & (low <= 0), np.minimum(small, high), low)


def _risky(one: View, objective: Objective) -> View:
    """All replicates at once, where the objective is over them."""
    if objective.risk is None:
        return one
    stack = one.stacked
    if stack is None or len(one.replicates) < 2:
        raise InvalidTable(
            "A risk is over bootstrap replicates, and this fit has fewer than 2; fit again with "
            "replicates, for example 200."
        )
    return stack


def _convexity(one: View, found: Region, centre: Array, low: Array) -> View:
    """The discount keeps convexity only where losses fall with every share."""
    plain = one.surface if isinstance(one, Discounted) else one
    if isinstance(one, Discounted):
        reach = np.minimum(found.high, 1 - (low.sum() - low))
        corners = centre + (np.diag(reach) - np.diag(centre))
        corners = np.vstack([centre, corners / corners.sum(axis=1, keepdims=True)])
        rises = any(np.any(plain.gradients(one.effective(row)) > 1e-12) for row in corners)
        return replace(one, falls=not rises)
    return one
