"""What a solution promises, with the law's own error in the interval.

    objective     its 95% interval is the objective of the ends of all targets' prediction
                  intervals: targets are taken to miss together, the widest case for a mean
    gain          objective(reference) - objective(solution), less what choosing flatters it:
                  mean_b [optimism_b + L_b(reference) - L(reference)], with L_b the replicates
    its interval  quantile * sqrt(spread_b^2 + miss(solution)^2 + miss(reference)^2)

spread_b is the replicates' standard deviation of the gain; miss the objective of what the laws miss
on left-out mixtures, seeds' noise included, at either mixture on its own. So the interval is of the
difference that two new runs would measure. What both runs have in common, such as an error in how
losses fall with steps, cancels. Without replicates both prediction intervals' widths stand in.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from mixlab.fitting import Fit
from mixlab.mixture import Array, Mixture
from mixlab.solvers.constraints import Constraints
from mixlab.solvers.objective import Objective, Score, score
from mixlab.solvers.problem import View, view
from mixlab.solvers.regret import Regret

# Student's t for two mixtures, where too few were run to leave any out.
UNTOLD_QUANTILE = 12.7
# Of log loss: a wider interval says no more, and JSON has no infinity.
WIDEST = 300.0


@dataclass(frozen=True)
class Gain:
    """By how much the solution is predicted to beat a reference mixture, in the objective."""

    nats: float
    corrected_nats: float | None  # less what choosing flatters; None without replicates
    low95: float  # of the difference that two new runs would measure
    high95: float

    @property
    def sure(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low95 > 0


@dataclass(frozen=True)
class Promise:
    """The objective of a run on the solution, and what it gains over references."""

    objective_nats: float
    low95: float
    high95: float
    gains: Mapping[str, Gain]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return asdict(self)


def promise(
    fit: Fit,
    objective: Objective,
    mixture: Mixture,
    references: Mapping[str, Mixture],
    *,
    constraints: Constraints | None = None,
    regret: Regret | None = None,
) -> Promise:
    """What is promised of a mixture, and against references at which the laws are defined.

    `regret` is of the solution with this mixture; without it nothing is corrected.
    """
    known = {name: one for name, one in references.items() if set(one.domains) <= set(fit.domains)}
    asked = _Asked.of(fit, replace(objective, risk=None), constraints or Constraints())
    rows = np.stack([one.shares(fit.domains) for one in (mixture, *known.values())])
    with np.errstate(all="ignore"):
        losses = asked.seen.losses(rows)
        values, widths = asked.number.each(losses), asked.widths(rows)
        low, high = (asked.number.each(losses[:1] * np.exp(sign * widths[:1])) for sign in (-1, 1))
        gains = _gains(asked, rows, regret)
    found = {
        name: one for name, one in zip(known, gains, strict=True)
        if np.isfinite([one.nats, one.low95, one.high95]).all()
    }  # fmt: skip
    return Promise(float(values[0]), float(low[0]), float(high[0]), found)


@dataclass(frozen=True)
class _Asked:
    """The objective's targets as the fit sees them."""

    fit: Fit
    objective: Objective
    seen: View
    number: Score

    @classmethod
    def of(cls, fit: Fit, objective: Objective, constraints: Constraints) -> "_Asked":
        names = tuple(fit.targets)
        seen = view(fit, objective, constraints).only(objective.weighted(names))
        return cls(fit, objective, seen, score(objective, names))

    def widths(self, rows: Array) -> Array:
        """Half the prediction intervals' widths in log loss, (row, target)."""
        found = self.fit.interval_widths(rows, self.objective.step, self.objective.params)
        return np.minimum(found, WIDEST)[
            :, [list(self.fit.targets).index(name) for name in self.seen.targets]
        ]

    def miss(self, errors: Array, rows: Array) -> Array:
        """The objective of errors in log loss, (row,) from (..., target): all miss together."""
        each = self.number.weights * self.seen.losses(rows) * errors
        return np.asarray(each.sum(axis=1) if self.number.kind == "mean" else each.max(axis=1))

    def misfits(self) -> tuple[Array, float]:
        """What each law misses on left-out mixtures, (target,), and the greatest quantile."""
        found = [self.fit.targets[name] for name in self.seen.targets]
        misses = [one.heldout.misfit if one.heldout else one.noise_percent / 100 for one in found]
        told = [one.heldout.quantile if one.heldout else UNTOLD_QUANTILE for one in found]
        return np.array(misses), max(told)


def _gains(asked: _Asked, rows: Array, regret: Regret | None) -> list[Gain]:
    """Of the first row over each other one."""
    values = asked.number.each(asked.seen.losses(rows))
    gains, stack = values[1:] - values[0], asked.seen.stacked
    if regret is None or stack is None:
        whole = asked.miss(asked.widths(rows), rows)
        halves = np.hypot(whole[0], whole[1:])
        return [_gain(*one, None) for one in zip(gains, halves, strict=True)]
    drawn = asked.number.each(stack.losses(rows))  # (replicate, row)
    flattery = regret.optimism_nats + drawn[:, 1:].mean(axis=0) - values[1:]
    misses, quantile = asked.misfits()
    own = asked.miss(misses, rows)
    spread = (drawn[:, 1:] - drawn[:, :1]).std(axis=0, ddof=1)
    halves = quantile * np.sqrt(spread**2 + own[0] ** 2 + own[1:] ** 2)
    return [_gain(*one) for one in zip(gains, halves, flattery, strict=True)]


def _gain(nats: float, half: float, flattery: float | None) -> Gain:
    centre = nats if flattery is None else nats - flattery
    corrected = None if flattery is None else float(centre)
    return Gain(float(nats), corrected, float(centre - half), float(centre + half))
