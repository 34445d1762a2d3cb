"""What a mixture must obey: bounds per domain and a cap on epochs.

    lower_i <= r_i <= min(upper_i, max_epochs * tokens_available_i / budget_tokens)

Source of the default cap of 4 epochs: up to there repeated tokens are nearly as good as
new ones (Muennighoff et al., arXiv 2305.16264).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum, isfinite

import numpy as np

from mixlab.errors import InfeasibleConstraints, InvalidBudget
from mixlab.mixture import Array

DEFAULT_MAX_EPOCHS = 4.0
# A share of 0 is outside the law, and far below any share that proxy runs see; with many
# domains the defaults together take at most a tenth.
DEFAULT_LOWER = 0.001
SLACK = 1e-9  # shares written with 9 digits may miss 1 by this much


@dataclass(frozen=True)
class Constraints:
    """Bounds on shares by domain; a domain not named in `lower` gets a small default.

    The cap on epochs needs both the budget and the tokens available; a domain without
    a count of tokens has no cap. `max_epochs=None` lifts it.
    """

    lower: Mapping[str, float] = field(default_factory=dict)
    upper: Mapping[str, float] = field(default_factory=dict)
    max_epochs: float | None = DEFAULT_MAX_EPOCHS
    budget_tokens: float | None = None
    tokens_available: Mapping[str, float] | None = None

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
        self._check_budget()

    def _check_budget(self) -> None:
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
        if self.max_epochs is None or self.budget_tokens is None or not self.tokens_available:
            return np.full(len(domains), np.inf)
        tokens = np.array([self.tokens_available.get(name, np.inf) for name in domains])
        return np.asarray(self.max_epochs * tokens / self.budget_tokens)

    def bounds(self, domains: Sequence[str]) -> tuple[Array, Array]:
        """Lower and upper bound of each share, (domain,) each.

        Raises InfeasibleConstraints, naming those in conflict, where no mixture obeys all.
        """
        self._check_names(domains)
        upper = np.array([self.upper.get(name, 1.0) for name in domains])
        high = np.minimum(np.minimum(upper, self.caps(domains)), 1.0)
        default = self._default_lower(domains)
        low = np.array(
            [
                self.lower.get(name, min(default, top))
                for name, top in zip(domains, high, strict=True)
            ]
        )
        self._check_each(domains, low, high)
        self._check_sums(domains, low, high)
        return low, high

    def _default_lower(self, domains: Sequence[str]) -> float:
        """Of domains without a lower bound; it gives way to what was asked for."""
        room = max(0.0, 1 - fsum(self.lower.values()))
        return min(DEFAULT_LOWER, 0.1 * room / len(domains))

    def _check_names(self, domains: Sequence[str]) -> None:
        for what, named in (
            ("lower", self.lower),
            ("upper", self.upper),
            ("tokens_available", self.tokens_available or {}),
        ):
            unknown = [name for name in named if name not in domains]
            if unknown:
                raise InfeasibleConstraints(
                    f"{what} names no known domain: {', '.join(map(repr, unknown))}; "
                    f"the domains are {', '.join(domains)}."
                )

    def _check_each(self, domains: Sequence[str], low: Array, high: Array) -> None:
        conflicts = [
            f"{name} at least {low[i]:.4g} but {self._why(name, high[i])}"
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
                self._why(name, high[i]) for i, name in enumerate(domains) if high[i] < 1
            )
            raise InfeasibleConstraints(
                f"Upper bounds and epoch caps allow {most:.4g} in all, less than 1: "
                f"{named}. Raise some, take a smaller budget or "
                "allow more epochs."
            )

    def _why(self, name: str, share: float) -> str:
        """The binding upper limit of a domain in words."""
        tokens = (self.tokens_available or {}).get(name)
        if tokens is None or share >= self.upper.get(name, 1.0):
            return f"{name} at most {share:.4g} (upper bound)"
        return (
            f"{name} at most {share:.4g} ({self.max_epochs:g} epochs of {tokens:,.0f} tokens in a "
            f"budget of {self.budget_tokens:,.0f})"
        )


def _above_zero(value: float) -> bool:
    return isfinite(value) and value > 0
