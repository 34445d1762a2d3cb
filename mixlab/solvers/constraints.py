"""What a mixture must obey: bounds per domain, a cap on epochs, and what limits.py adds.

    lower_i <= r_i <= min(upper_i, max_epochs * tokens_available_i / budget_tokens)
    least seen_i / trust <= r_i <= trust * most seen_i                             (trust.py)

Source of the default cap of 4 epochs: up to there repeated tokens are nearly as good as
new ones (Muennighoff et al., arXiv 2305.16264). With `repetition` the cap gives way to a
discount on repeated tokens (repetition.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum, isfinite

import numpy as np

from mixlab.errors import InfeasibleConstraints, InvalidBudget
from mixlab.mixture import Array
from mixlab.solvers.limits import Group, Linear, Near
from mixlab.solvers.repetition import Repetition

DEFAULT_MAX_EPOCHS = 4.0
# A share of 0 is outside the law, and far below any share that proxy runs see; with many
# domains the defaults together take at most a tenth.
DEFAULT_LOWER = 0.001
SEQUENCE_TOKENS = 2048  # of one training sample, where nothing else is said
SLACK = 1e-9  # shares written with 9 digits may miss 1 by this much


@dataclass(frozen=True)
class Seen:
    """The shares that runs saw, and the ranges that shares are held in for that."""

    observed: Mapping[str, tuple[float, float]]  # by domain; none where no run had any
    ranges: Mapping[str, tuple[float, float]]
    notes: tuple[str, ...] = ()  # where other constraints won


NOT_SEEN = Seen({}, {})


@dataclass(frozen=True)
class Constraints:
    """Bounds on shares by domain; a domain not named in `lower` gets a small default.

    The default leaves every domain that may have a share at least one sequence of the budget.
    The cap on epochs needs both the budget and the tokens available; a domain without
    a count of tokens has no cap. `max_epochs=None` lifts it, and so does `repetition`.

    `trust` is the factor by which shares may leave the range that the fit's runs saw, 1 to stay
    inside; None lets them go anywhere. The solver puts those ranges in `seen`.
    """

    lower: Mapping[str, float] = field(default_factory=dict)
    upper: Mapping[str, float] = field(default_factory=dict)
    max_epochs: float | None = DEFAULT_MAX_EPOCHS
    budget_tokens: float | None = None
    tokens_available: Mapping[str, float] | None = None
    groups: Mapping[str, Group] = field(default_factory=dict)
    linear: Sequence[Linear] = ()
    near: Near | None = None
    repetition: Repetition | None = None
    sequence_tokens: int = SEQUENCE_TOKENS
    trust: float | None = None
    seen: Seen = NOT_SEEN

    def __post_init__(self) -> None:
        for name, bounds in (("lower", self.lower), ("upper", self.upper)):
            for domain, share in bounds.items():
                if not isfinite(share) or not 0 <= share <= 1:
                    raise InfeasibleConstraints(
                        f"The {name} bound of {domain!r} is {share}; a share lies in 0 to 1."
                    )
        for domain, tokens in (self.tokens_available or {}).items():
            if not _above_zero(tokens):
                raise InfeasibleConstraints(
                    f"{domain!r} has {tokens} tokens available; the count must be above 0."
                )
        if self.max_epochs is not None and not _above_zero(self.max_epochs):
            raise InfeasibleConstraints(f"max_epochs must be above 0, not {self.max_epochs}.")
        if self.sequence_tokens < 1:
            raise InvalidBudget(f"A sequence has at least 1 token, not {self.sequence_tokens}.")
        self._check_trust()
        self._check_budget()

    @property
    def simple(self) -> bool:
        """Whether nothing but bounds and caps limits the shares."""
        joint = self.groups or self.linear or self.near or self.repetition
        return not joint

    def _check_trust(self) -> None:
        if self.trust is not None and not (isfinite(self.trust) and self.trust >= 1):
            raise InfeasibleConstraints(
                f"trust is {self.trust}, the factor by which shares may leave those that runs "
                "saw; give at least 1, which stays inside, or None, which goes anywhere."
            )

    def _check_budget(self) -> None:
        if self.repetition and (self.budget_tokens is None or not self.tokens_available):
            raise InvalidBudget(
                "What repeats are worth depends on how often tokens are repeated; give "
                "budget_tokens and tokens_available, or no repetition."
            )
        if self.budget_tokens is None:
            if self.tokens_available and self.max_epochs is not None:
                raise InvalidBudget(
                    "Tokens available cap the epochs only with a token budget; give "
                    "budget_tokens too, or max_epochs=None."
                )
        elif not _above_zero(self.budget_tokens):
            raise InvalidBudget(f"A token budget must be above 0, not {self.budget_tokens}.")

    def caps(self, domains: Sequence[str]) -> Array:
        """The largest share that the epochs allow, (domain,); infinite where nothing caps it."""
        capped = self.max_epochs is not None and self.repetition is None
        if not capped or self.budget_tokens is None or not self.tokens_available:
            return np.full(len(domains), np.inf)
        tokens = np.array([self.tokens_available.get(name, np.inf) for name in domains])
        return np.asarray((self.max_epochs or 0.0) * tokens / self.budget_tokens)

    def bounds(self, domains: Sequence[str]) -> tuple[Array, Array]:
        """Lower and upper bound of each share, (domain,) each.

        Raises InfeasibleConstraints, naming those in conflict, where no mixture obeys all.
        """
        self._check_names(domains)
        upper = np.array([self._upper(name) for name in domains])
        high = np.minimum(np.minimum(upper, self.caps(domains)), 1.0)
        ranges = np.array([self.seen.ranges.get(name, (0.0, 1.0)) for name in domains])
        high = np.minimum(high, ranges[:, 1])
        default = self._default_lower(domains)
        asked = [
            self.lower.get(name, min(default, top, self._group_room(name)))
            for name, top in zip(domains, high, strict=True)
        ]
        low = np.maximum(np.array(asked), ranges[:, 0])
        self._check_each(domains, low, high)
        self._check_sums(domains, low, high)
        return low, high

    def _upper(self, name: str) -> float:
        """The bound that was given; nothing of what the reference has nothing of."""
        if self.near and self.near.mixture.proportions.get(name, 0.0) <= 0:
            return 0.0
        return self.upper.get(name, 1.0)

    def _group_room(self, name: str) -> float:
        """Half of an even part of the tightest group that the domain is in."""
        rooms = [
            0.5 * group.upper / len(group.domains)
            for group in self.groups.values()
            if name in group.domains
        ]
        return min(rooms, default=1.0)

    def _default_lower(self, domains: Sequence[str]) -> float:
        """Of domains without a lower bound; it gives way to what was asked for."""
        room = max(0.0, 1 - fsum(self.lower.values())) / len(domains)
        one_sequence = self.sequence_tokens / self.budget_tokens if self.budget_tokens else 0.0
        # A budget of hardly a sequence for each domain can't give one to each and still choose.
        return max(min(DEFAULT_LOWER, 0.1 * room), min(one_sequence, 0.5 * room))

    def _check_names(self, domains: Sequence[str]) -> None:
        reference = self.near.mixture.proportions if self.near else {}
        for what, named in (
            ("lower", self.lower),
            ("upper", self.upper),
            ("tokens_available", self.tokens_available or {}),
            ("near", [name for name, share in reference.items() if share > 0]),
            *((f"group {name!r}", group.domains) for name, group in self.groups.items()),
            *((f"linear {one.label!r}", one.coefficients) for one in self.linear),
        ):
            unknown = [name for name in named if name not in domains]
            if unknown:
                raise InfeasibleConstraints(
                    f"{what} names no known domain: {', '.join(map(repr, unknown))}; "
                    f"the domains are {', '.join(domains)}."
                )
        labels = [*self.groups, *(one.label for one in self.linear)]
        if len(set(labels) | set(domains)) < len(labels) + len(domains):
            raise InfeasibleConstraints(
                f"Groups and linear constraints need names of their own, other than each other's "
                f"and the domains': {', '.join(labels)}."
            )

    def _check_each(self, domains: Sequence[str], low: Array, high: Array) -> None:
        conflicts = [
            f"{name} at least {low[i]:.4g} but {self.why(name, high[i])}"
            for i, name in enumerate(domains)
            if low[i] > high[i]
        ]
        if conflicts:
            raise InfeasibleConstraints(
                f"Bounds contradict each other: {'; '.join(conflicts)}. Lower the lower bound, or "
                "raise the upper bound, the tokens or max_epochs."
            )

    def _check_sums(self, domains: Sequence[str], low: Array, high: Array) -> None:
        least, most = fsum(low), fsum(high)
        if least > 1 + SLACK:
            named = ", ".join(
                f"{name} at least {share:.4g}" for name, share in self.lower.items() if share > 0
            )
            raise InfeasibleConstraints(
                f"Lower bounds ask for {least:.4g} in all, more than 1: {named}. Lower some."
            )
        if most < 1 - SLACK:
            named = ", ".join(
                self.why(name, high[i]) for i, name in enumerate(domains) if high[i] < 1
            )
            raise InfeasibleConstraints(
                f"Upper bounds and epoch caps allow {most:.4g} in all, less than 1: "
                f"{named}. Raise some, take a smaller budget or "
                "allow more epochs."
            )

    def why(self, name: str, share: float) -> str:
        """The binding upper limit of a domain in words."""
        tokens = (self.tokens_available or {}).get(name)
        if self.near and self.near.mixture.proportions.get(name, 0.0) <= 0:
            return f"{name} at most 0 (the reference mixture has none of it)"
        ranges = self.seen.ranges
        if name in ranges and share == ranges[name][1] < self.upper.get(name, 1.0):
            return f"{name} at most {share:.4g} (by what runs saw)"
        if tokens is None or share >= self.upper.get(name, 1.0):
            return f"{name} at most {share:.4g} (upper bound)"
        return (
            f"{name} at most {share:.4g} ({self.max_epochs:g} epochs of {tokens:,.0f} tokens in a "
            f"budget of {self.budget_tokens:,.0f})"
        )


def _above_zero(value: float) -> bool:
    return isfinite(value) and value > 0
