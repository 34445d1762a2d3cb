"""What a mixture is to be good at: one number from all targets' losses.

    mean     sum_t w_t L_t / sum_t w_t
    worst    max_t w_t L_t                    w_t = 1 where no weights are given
    excess   max_t w_t (L_t - reference_t)

With `risk` the number is taken over the bootstrap replicates of the fit: their mean (risk 0), or
the mean of the worst (1 - risk) of them, the conditional value at risk (Rockafellar and Uryasev
2000). All are convex, and rise with every loss.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import fsum, isfinite
from typing import Any, Literal

import numpy as np

from mixlab.errors import InvalidBudget, InvalidMixture, InvalidTable
from mixlab.mixture import Array

Kind = Literal["mean", "worst", "excess"]
MOST_WEIGHT = 1e12  # far apart enough, and sums stay finite


@dataclass(frozen=True)
class Objective:
    """A number to minimise, of predicted losses at a step in the fit's step unit.

    Weights are by target; without any, all targets weigh the same. A target not named weighs 0,
    so that weights also choose a set of targets. `params` is the model's size, for laws that see
    it. `reference_nats` are losses by target, for the excess.
    """

    step: float
    weights: Mapping[str, float] | None = None
    params: float | None = None
    kind: Kind = "mean"
    reference_nats: Mapping[str, float] | None = None
    risk: float | None = None

    def __post_init__(self) -> None:
        if not isfinite(self.step) or self.step <= 0:
            raise InvalidBudget(f"The objective's step must be above 0, not {self.step}.")
        if self.params is not None and not (isfinite(self.params) and self.params > 0):
            raise InvalidBudget(f"A model's parameters must be above 0, not {self.params}.")
        for target, weight in (self.weights or {}).items():
            if not 0 <= weight <= MOST_WEIGHT:
                raise InvalidMixture(
                    f"The weight of target {target!r} is {weight}; weights are finite, at least "
                    f"0 and at most {MOST_WEIGHT:g}."
                )
        if self.weights is not None and fsum(self.weights.values()) <= 0:
            raise InvalidMixture("The weights of all targets are 0; give one target some weight.")
        self._check_kind()

    def _check_kind(self) -> None:
        if self.kind not in ("mean", "worst", "excess"):
            raise InvalidMixture(f"An objective is mean, worst or excess, not {self.kind!r}.")
        if (self.kind == "excess") != (self.reference_nats is not None):
            raise InvalidMixture(
                "The excess is over reference_nats, losses by target, and only it has them; the "
                f"objective is {self.kind!r}."
            )
        for target, loss in (self.reference_nats or {}).items():
            if not isfinite(loss) or loss <= 0:
                raise InvalidMixture(
                    f"The reference loss of target {target!r} is {loss}; losses are above 0."
                )
        if self.risk is not None and not 0 <= self.risk < 1:
            raise InvalidMixture(
                f"The risk is {self.risk}; it lies from 0 (the mean of the replicates) to below 1 "
                "(ever fewer of the worst)."
            )

    def weighted(self, targets: tuple[str, ...]) -> dict[str, float]:
        """Weight by target, of those that weigh. Raises InvalidTable for targets not fitted."""
        weights = self.weights or dict.fromkeys(targets, 1.0)
        known = {**weights, **(self.reference_nats or {})}
        for name in known:
            if name not in targets:
                raise InvalidTable(
                    f"There is no fit of target {name!r}; there are {', '.join(targets)}."
                )
        found = {name: float(weights[name]) for name in targets if weights.get(name, 0.0) > 0}
        missing = [name for name in found if name not in (self.reference_nats or found)]
        if missing:
            raise InvalidMixture(
                f"No reference loss is given for {', '.join(map(repr, missing))}; give one for "
                "every target that weighs."
            )
        total = fsum(found.values()) if self.kind == "mean" else 1.0
        return {name: weight / total for name, weight in found.items()}


@dataclass(frozen=True)
class Score:
    """An objective over arrays of losses, (..., target), of the targets that weigh."""

    kind: Kind
    weights: Array  # (target,)
    offsets: Array  # (target,), reference losses of the excess
    risk: float | None

    @property
    def smooth(self) -> bool:
        """Whether it is a mean of losses, and so as smooth as they are."""
        return self.kind == "mean" and not self.risk

    def each(self, losses: Array) -> Array:
        """The number of every replicate and mixture, (...)."""
        if self.kind == "mean":
            return np.asarray(losses @ self.weights)
        return np.asarray((self.weights * (losses - self.offsets)).max(axis=-1))

    def over(self, numbers: Array) -> Array:
        """One number per mixture from those of all replicates, (replicate, row) to (row,)."""
        if not self.risk:
            return np.asarray(numbers.mean(axis=0))
        count = len(numbers)
        # The worst (1 - risk) of the replicates; the last of them may count in part.
        tail = (1 - self.risk) * count
        ordered = -np.sort(-numbers, axis=0)
        shares = np.clip(tail - np.arange(count), 0.0, 1.0) / tail
        return np.asarray(np.tensordot(shares, ordered, axes=1))


def score(objective: Objective, targets: tuple[str, ...]) -> Score:
    """The objective over losses in the order of the targets that weigh."""
    weights = objective.weighted(targets)
    reference: Mapping[str, Any] = objective.reference_nats or {}
    return Score(
        kind=objective.kind,
        weights=np.array(list(weights.values())),
        offsets=np.array([float(reference.get(name, 0.0)) for name in weights]),
        risk=objective.risk,
    )
