"""What a solver answers: a mixture, what is predicted for it, and what holds it where it is."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from mixlab.mixture import Mixture
from mixlab.solvers.region import Bound

CERTIFIED = 1e-6  # nats; a gap up to here counts as none


class SolutionStatus(StrEnum):
    """What kind of optimum was found."""

    OPTIMAL = "optimal"  # no mixture is better by more than the gap
    NOT_UNIQUE = "not_unique"  # so too, but other mixtures do as well: the loss is flat somewhere
    INEXACT = "inexact"  # the search stopped early: another may be better, by the gap at most
    LOCAL = "local"  # best of several searches; the law is not convex, so no gap is known
    SAMPLED = "sampled"  # the mean of the best of many samples; the law has no slopes


@dataclass(frozen=True)
class ActiveConstraint:
    """A constraint that the solution touches, and what loosening it would gain.

    The price is the fall of the objective at the margin, in nats per unit of what is bounded: of
    share for bounds, caps and groups, of the sum for linear constraints, of nats for the distance.
    """

    domain: str  # or the group, the linear constraint, or "reference"
    bound: Bound
    share: float  # the bound's value
    price_nats: float


@dataclass(frozen=True)
class Price:
    """What a change of one constraint is worth, at the margin.

    Convex problems gain ever less, so that the real change is worth at most this.
    """

    domain: str  # as in ActiveConstraint
    change: str  # "one more epoch of code"
    amount: float  # of that change, in the unit of what it changes
    nats: float
    statement: str


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
    gap_nats: float | None = 0.0  # no mixture is better by more; None where that is not known
    prices: tuple[Price, ...] = ()

    @property
    def statements(self) -> tuple[str, ...]:
        """Prices in plain words, the dearest first."""
        return tuple(price.statement for price in self.prices)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {
            "mixture": dict(self.mixture.proportions),
            "objective_nats": self.objective_nats,
            "predicted_nats": dict(self.predicted_nats),
            "step": self.step,
            "multiplier": self.multiplier,
            "active": [asdict(found) for found in self.active],
            "epochs": None if self.epochs is None else dict(self.epochs),
            "status": self.status.value,
            "notes": list(self.notes),
            "gap_nats": self.gap_nats,
            "prices": [asdict(price) for price in self.prices],
            "statements": list(self.statements),
        }
