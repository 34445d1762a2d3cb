"""How far to trust a solution: from the replicates of a fit, solved again one by one.

With L the fit's objective, r its optimum, and L_b, r_b those of replicate b, drawn from the fit as
the fit was from the truth:

    optimism          mean_b [L(r_b) - L_b(r_b)]: how much an optimum's prediction is too low, as
                      it is best where chance made the law too low (Efron 1983)
      of which selection  mean_b [L(r_b) - L(r) + L_b(r) - L_b(r_b)], without what the replicates'
                      level is off by at the same mixture; never below 0
    sampling regret   mean_b [L(r_b) - L(r)]: what chance in the runs is expected to cost. It is no
                      bound on what is lost to the best mixture: replicates agree on what no run
                      tells, which the expected regret of mixlab.design counts in full
    region            shares of the mixtures that can't be told from the optimum: the replicates'
                      optima, and drawn ones whose L_b(.) - L_b(r) has a 95% interval with 0 in it

All take the law's form as true. Drawn mixtures are even draws from the feasible region, and
those drawn toward the optimum by as much.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mixlab.errors import InvalidMixture, InvalidTable
from mixlab.fitting import Fit
from mixlab.mixture import Array, Mixture
from mixlab.solvers.constraints import NOT_SEEN, Constraints
from mixlab.solvers.interior import interior
from mixlab.solvers.local import search
from mixlab.solvers.objective import Objective
from mixlab.solvers.power_laws import powers, separable
from mixlab.solvers.problem import Problem, problem
from mixlab.solvers.program import Program
from mixlab.solvers.region import Inside
from mixlab.solvers.sampling import samples
from mixlab.solvers.separable import split
from mixlab.solvers.solution import Solution

DRAWS = 2000
AT_ONCE = 250
QUANTILES = (0.025, 0.975)
QUICK = 1e-7  # nats; far below what replicates differ by
TOWARD = np.array([1.0, 0.5, 0.25, 0.12, 0.06, 0.03])  # of the way from the optimum to a draw


@dataclass(frozen=True)
class Difference:
    """How much worse one mixture is than another, with a 95% interval over the replicates."""

    nats: float
    low: float
    high: float

    @property
    def told_apart(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Regret:
    """What the replicates say of a solution."""

    optimism_nats: float
    selection_nats: float  # the optimism's part that comes of choosing
    optimism_error_nats: float  # standard error of the mean over replicates
    corrected_nats: float  # the predicted objective, with the optimism added
    sampling_regret_nats: float
    region: Mapping[str, tuple[float, float]]  # of each domain's share
    replicate_optima: Array  # (replicate, domain)
    alike: float  # part of the even draws that can't be told from the optimum

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {
            "optimism_nats": self.optimism_nats,
            "selection_nats": self.selection_nats,
            "optimism_error_nats": self.optimism_error_nats,
            "corrected_nats": self.corrected_nats,
            "sampling_regret_nats": self.sampling_regret_nats,
            "region": {name: list(ends) for name, ends in self.region.items()},
            "replicates": len(self.replicate_optima),
            "alike": self.alike,
        }


def regret(
    fit: Fit,
    objective: Objective,
    constraints: Constraints | None,
    solution: Solution,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Regret:
    """Optimism, sampling regret and region of a solution of the same problem.

    Raises InvalidTable where the fit has no replicates, or its law no slopes.
    """
    constraints = constraints or Constraints()
    found, stack = _plain(fit, objective, constraints)
    best = solution.mixture.shares(fit.domains)
    optima, own = _optima(found, best, fit, objective, constraints)
    ours = found.program.values(np.vstack([best, optima]))
    optimism = ours[1:] - own
    (block,) = stack.blocks
    at_best = block.score.each(block.surface.losses(best[None, :]))[:, 0]
    region, alike = _region(found, stack, best, optima, draws, seed)
    return Regret(
        optimism_nats=float(optimism.mean()),
        selection_nats=float(np.mean(ours[1:] - ours[0] + at_best - own)),
        optimism_error_nats=float(optimism.std(ddof=1) / np.sqrt(len(optimism))),
        corrected_nats=float(ours[0] + optimism.mean()),
        sampling_regret_nats=float(ours[1:].mean() - ours[0]),
        region=dict(zip(fit.domains, region, strict=True)),
        replicate_optima=optima,
        alike=alike,
    )


def difference(
    fit: Fit, objective: Objective, mixture: Mixture, other: Mixture,
    constraints: Constraints | None = None,
) -> Difference:  # fmt: skip
    """By how much `mixture` is worse than `other`, and whether replicates agree that it is.

    Only what the constraints say of repeats matters here.
    """
    for one in (mixture, other):
        unknown = [name for name in one.domains if name not in fit.domains]
        if unknown:
            raise InvalidMixture(
                f"The fit knows no domain {', '.join(map(repr, unknown))}; it was made on "
                f"{', '.join(fit.domains)}."
            )
    repeats = replace(
        constraints or Constraints(),
        lower={},
        upper={},
        groups={},
        linear=(),
        near=None,
        trust=None,
        seen=NOT_SEEN,
    )
    found, stack = _plain(fit, objective, repeats)
    both = np.stack([mixture.shares(fit.domains), other.shares(fit.domains)])
    ours = found.program.values(both)
    low, high = np.quantile(_differences(stack, both[:1], both[1]), QUANTILES, axis=0)[:, 0]
    return Difference(float(ours[0] - ours[1]), float(low), float(high))


def _plain(fit: Fit, objective: Objective, constraints: Constraints) -> tuple[Problem, Program]:
    """The problem without risk, and its program over all replicates at once."""
    found = problem(fit, [replace(objective, risk=None)], constraints)
    (block,) = found.program.blocks
    surface: Any = block.surface
    stack = surface.stacked if found.smooth else None
    if stack is None or len(surface.replicates) < 2:
        raise InvalidTable(
            "What replicates say of a mixture needs a fit with bootstrap replicates of a law "
            "with slopes; fit again with replicates, for example 200."
        )
    return found, Program([replace(block, surface=stack)], found.region)


def _optima(
    found: Problem, best: Array, fit: Fit, objective: Objective, constraints: Constraints
) -> tuple[Array, Array]:
    """Each replicate's optimum, (replicate, domain), and its own value of it, (replicate,)."""
    (block,) = found.program.blocks
    surface: Any = block.surface
    exact = separable(fit, replace(objective, risk=None), constraints)
    start = Inside(0.9 * best + 0.1 * found.start.shares, found.start.equal)
    optima, values = [], []
    for one in surface.replicates:
        program = Program([replace(block, surface=one)], found.region)
        if exact:
            plain = powers(one, dict(zip(one.targets, block.score.weights, strict=True)))
            shares = split(plain.pull, plain.exponent, found.low, found.high).shares
        elif found.convex:
            shares = interior(program, start, tolerance=QUICK).x[: program.size]
        else:
            shares = search(replace(found, program=program), first=best)
        optima.append(shares)
        values.append(program.value(shares))
    return np.stack(optima), np.array(values)


def _region(
    found: Problem, stack: Program, best: Array, optima: Array, draws: int, seed: int
) -> tuple[list[tuple[float, float]], float]:
    drawn = samples(found.region, found.start, draws // len(TOWARD), seed=seed)
    ends = np.vstack([drawn, *_corners(found)])
    tried = (best + TOWARD[:, None, None] * (ends - best)).reshape(-1, len(best))
    low = np.quantile(_differences(stack, tried, best), QUANTILES[0], axis=0)
    same = low <= 0
    kept = np.vstack([best, optima, tried[same]])
    sides = zip(kept.min(axis=0).tolist(), kept.max(axis=0).tolist(), strict=True)
    return list(sides), float(same[: len(drawn)].mean()) if len(drawn) else 0.0


def _corners(found: Problem) -> list[Array]:
    """Where each share is least and most: the region reaches farthest toward these."""
    if found.region.reference is not None:
        return []
    unit = np.eye(len(found.low))
    return [found.region.least(sign * row)[1] for row in unit for sign in (1.0, -1.0)]


def _differences(stack: Program, mixtures: Array, best: Array) -> Array:
    """By how much each replicate finds each mixture worse, (replicate, mixture)."""
    (block,) = stack.blocks
    ours = block.score.each(block.surface.losses(best[None, :]))
    pieces = [
        block.score.each(block.surface.losses(mixtures[at : at + AT_ONCE]))
        for at in range(0, len(mixtures), AT_ONCE)
    ]
    return np.asarray(np.concatenate(pieces, axis=-1) - ours)
