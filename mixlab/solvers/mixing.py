"""From a fit to the mixture that it predicts to be best.

    minimise  sum_i w_i L_i(r_i, step) / sum_i w_i   over mixtures that obey the constraints

exactly, for laws that at a fixed step are a power of the own share (`Law.power_law`).
Limits: the law's own; the solution's notes say where it leaves the shares and steps seen.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import fsum, isfinite
from typing import Any, Literal

import numpy as np

from mixlab.errors import (
    InfeasibleConstraints,
    InvalidBudget,
    InvalidMixture,
    InvalidTable,
    TooFewMixtures,
)
from mixlab.fitting import Fit, FitStatus
from mixlab.laws import Mask
from mixlab.mixture import Array, Mixture
from mixlab.solvers.constraints import DEFAULT_LOWER, SLACK, Constraints
from mixlab.solvers.separable import Split, split

Bound = Literal["lower", "upper", "epochs"]


class SolutionStatus(StrEnum):
    """What kind of optimum was found; it is always a global one."""

    OPTIMAL = "optimal"
    NOT_UNIQUE = "not_unique"  # other mixtures do as well: the loss is flat in some domains


@dataclass(frozen=True)
class Objective:
    """The weighted mean of predicted losses at a step, in the fit's step unit.

    Weights are by target; without any, all targets weigh the same. A target not named
    weighs 0.
    """

    step: float
    weights: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if not isfinite(self.step) or self.step <= 0:
            raise InvalidBudget(f"The objective's step must be above 0, not {self.step}.")
        for target, weight in (self.weights or {}).items():
            if not isfinite(weight) or weight < 0:
                raise InvalidMixture(
                    f"The weight of target {target!r} is {weight}; weights are finite and at "
                    "least 0."
                )
        if self.weights is not None and fsum(self.weights.values()) <= 0:
            raise InvalidMixture("The weights of all targets are 0; give one target some weight.")


@dataclass(frozen=True)
class ActiveConstraint:
    """A bound that the solution touches, and what loosening it would gain.

    The price is the fall of the objective in nats per unit of share, at the margin.
    """

    domain: str
    bound: Bound
    share: float
    price_nats: float


@dataclass(frozen=True)
class Solution:
    """The mixture found, with what the fit predicts for it."""

    mixture: Mixture
    objective_nats: float
    predicted_nats: Mapping[str, float]  # per target; not of targets whose domain has share 0
    step: float
    multiplier: float  # fall of the objective in nats per unit of share, same for free domains
    active: tuple[ActiveConstraint, ...]
    epochs: Mapping[str, float] | None  # per domain with a count of tokens; None without a budget
    status: SolutionStatus
    notes: tuple[str, ...]  # where the answer leaves the evidence

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {
            "mixture": dict(self.mixture.proportions),
            "objective_nats": self.objective_nats,
            "predicted_nats": dict(self.predicted_nats),
            "step": self.step,
            "multiplier": self.multiplier,
            "active": [vars(found) for found in self.active],
            "epochs": None if self.epochs is None else dict(self.epochs),
            "status": self.status.value,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class _Problem:
    """Arrays over domains; a domain without a target has weight and coefficient 0."""

    weights: Array  # sums to 1
    coefficient: Array
    exponent: Array
    fitted: Mask  # whether the domain has a target

    @property
    def pull(self) -> Array:
        return np.asarray(self.weights * self.coefficient * self.exponent)


def solve(fit: Fit, objective: Objective, constraints: Constraints | None = None) -> Solution:
    """The mixture with the smallest objective under the constraints; see the module.

    Raises InfeasibleConstraints, TooFewMixtures where a weighted target's response to its
    share is not known, and InvalidTable for targets or laws that can't be solved so.
    """
    constraints = constraints or Constraints()
    problem = _problem(fit, objective)
    low, high = constraints.bounds(fit.domains)
    low = _off_zero(fit, problem, low, high)
    found = split(problem.pull, problem.exponent, low, high)
    mixture = Mixture.of(fit.domains, found.shares)
    predicted = _predicted(fit, problem, found.shares)
    weights = dict(zip(fit.domains, problem.weights, strict=True))
    return Solution(
        mixture=mixture,
        objective_nats=fsum(weights[name] * loss for name, loss in predicted.items()),
        predicted_nats=predicted,
        step=objective.step,
        multiplier=found.multiplier,
        active=_active(fit, problem, found, constraints, low, high),
        epochs=_epochs(constraints, mixture),
        status=SolutionStatus.OPTIMAL if found.unique else SolutionStatus.NOT_UNIQUE,
        notes=_notes(fit, objective, problem, found.shares),
    )


def _problem(fit: Fit, objective: Objective) -> _Problem:
    power_law = fit.law.power_law
    if power_law is None:
        raise InvalidTable(f"The law {fit.law.name} is no power of the own share at a fixed step.")
    weights = objective.weights or dict.fromkeys(fit.targets, 1.0)
    total = fsum(weights.values())
    size = len(fit.domains)
    problem = _Problem(np.zeros(size), np.zeros(size), np.zeros(size), np.zeros(size, dtype=bool))
    for target, weight in weights.items():
        if "alpha" in fit.target(target).unidentified and weight > 0:
            raise TooFewMixtures(
                f"Target {target!r} can't be optimised: {fit.target(target).reason}. Observe "
                "mixtures in which that share differs, or give the target no weight."
            )
    for target, found in fit.targets.items():
        index = fit.domains.index(target)
        problem.coefficient[index], problem.exponent[index] = power_law(
            found.values, objective.step
        )
        problem.weights[index] = weights.get(target, 0.0) / total
        problem.fitted[index] = True
    return problem


def _off_zero(fit: Fit, problem: _Problem, low: Array, high: Array) -> Array:
    """Lower bounds raised off 0 where the law diverges there."""
    for index, name in enumerate(fit.domains):
        if problem.pull[index] > 0 and high[index] <= 0:
            raise InfeasibleConstraints(
                f"The upper bound of {name!r} is 0, where its predicted loss is infinite; give "
                "its target no weight, or allow it a share."
            )
    room = 1 - float(low.sum())
    starved = [name for i, name in enumerate(fit.domains) if problem.pull[i] > 0 and low[i] <= 0]
    if starved and room <= SLACK:
        raise InfeasibleConstraints(
            f"The lower bounds leave nothing for {', '.join(map(repr, starved))}, where the "
            "predicted loss is infinite at a share of 0; lower them, or give no weight there."
        )
    diverges = problem.fitted & (problem.exponent > 0) & (low <= 0)
    small = min(DEFAULT_LOWER, 0.1 * max(room, 0.0) / len(low))
    return np.where(diverges, np.minimum(small, high), low)


def _predicted(fit: Fit, problem: _Problem, shares: Array) -> dict[str, float]:
    predicted = {}
    for name in fit.targets:
        index = fit.domains.index(name)
        share, exponent = float(shares[index]), float(problem.exponent[index])
        if share > 0 or exponent == 0:
            predicted[name] = float(problem.coefficient[index]) * share**-exponent
    return predicted


def _active(
    fit: Fit, problem: _Problem, found: Split, constraints: Constraints, low: Array, high: Array
) -> tuple[ActiveConstraint, ...]:
    caps = constraints.caps(fit.domains)
    active = []
    for index, name in enumerate(fit.domains):
        share = float(found.shares[index])
        slope = 0.0
        if problem.pull[index] > 0:
            slope = float(problem.pull[index] * share ** -(1 + problem.exponent[index]))
        if share <= low[index]:
            price = max(0.0, found.multiplier - slope)
            active.append(ActiveConstraint(name, "lower", share, price))
        elif share >= high[index]:
            bound: Bound = "epochs" if caps[index] <= constraints.upper.get(name, 1.0) else "upper"
            price = max(0.0, slope - found.multiplier)
            active.append(ActiveConstraint(name, bound, share, price))
    return tuple(active)


def _epochs(constraints: Constraints, mixture: Mixture) -> dict[str, float] | None:
    if constraints.budget_tokens is None:
        return None
    available = constraints.tokens_available or {}
    return {
        name: share * constraints.budget_tokens / available[name]
        for name, share in mixture
        if name in available
    }


def _notes(fit: Fit, objective: Objective, problem: _Problem, shares: Array) -> tuple[str, ...]:
    notes = []
    first, last = fit.steps_seen
    if not first <= objective.step <= last:
        notes.append(
            f"the objective looks at {objective.step:g} {fit.step_unit}; observed were {first:g} "
            f"to {last:g}"
        )
    for index, name in enumerate(fit.domains):
        seen = fit.shares_seen.get(name)
        if not problem.fitted[index]:
            notes.append(f"{name} has no target, so nothing is known of what its share does")
        elif seen and not seen[0] * (1 - 1e-9) <= shares[index] <= seen[1] * (1 + 1e-9):
            notes.append(
                f"{name} gets {shares[index]:.4g}, outside the shares observed, {seen[0]:.4g} to "
                f"{seen[1]:.4g}"
            )
        if name in fit.targets and fit.targets[name].status is not FitStatus.CONVERGED:
            notes.append(f"{name}'s fit is {fit.targets[name].status}: {fit.targets[name].reason}")
    return tuple(notes)
