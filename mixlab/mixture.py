"""Mixtures: shares of training tokens per domain, summing to one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import fsum, isfinite
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from mixlab.errors import InvalidBudget, InvalidMixture

Array = npt.NDArray[np.float64]

SUM_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Mixture:
    """Proportions of training tokens by domain name, in the order given.

    Raises InvalidMixture if a proportion is negative or not finite, or if
    they don't sum to 1 within 1e-6 (what tables rounded to 4 to 6 digits keep).
    """

    proportions: Mapping[str, float]

    def __post_init__(self) -> None:
        if not self.proportions:
            raise InvalidMixture("A mixture needs at least one domain; none was given.")
        for name, share in self.proportions.items():
            if not isfinite(share) or share < 0:
                raise InvalidMixture(
                    f"The proportion of {name!r} is {share}; every proportion must be a "
                    "finite number of at least 0."
                )
        total = fsum(self.proportions.values())
        if abs(total - 1.0) > SUM_TOLERANCE:
            raise InvalidMixture(
                f"Proportions must sum to 1, but sum to {total:.6f}; "
                "use Mixture.normalised() for raw weights."
            )
        object.__setattr__(self, "proportions", MappingProxyType(dict(self.proportions)))

    def __reduce__(self) -> tuple[type["Mixture"], tuple[dict[str, float]]]:
        """As processes hand it on, because a read-only view can't be pickled."""
        return Mixture, (dict(self.proportions),)

    @classmethod
    def normalised(cls, weights: Mapping[str, float]) -> "Mixture":
        """The mixture proportional to non-negative weights. Raises InvalidMixture if all are 0."""
        total = fsum(weights.values()) if weights else 0.0
        if not isfinite(total) or total <= 0:
            raise InvalidMixture(
                f"Weights must be finite and sum to more than 0; these sum to {total}."
            )
        return cls({name: weight / total for name, weight in weights.items()})

    @classmethod
    def uniform(cls, domains: Sequence[str]) -> "Mixture":
        """The same share for every domain."""
        return cls.normalised(dict.fromkeys(domains, 1.0))

    @classmethod
    def of(cls, domains: Sequence[str], shares: Sequence[float] | Array) -> "Mixture":
        """Names and shares in the same order, normalised to sum to 1 exactly."""
        return cls.normalised(dict(zip(domains, map(float, shares), strict=True)))

    @property
    def domains(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(self.proportions)

    def shares(self, domains: Sequence[str] | None = None) -> Array:
        """Proportions as an array of shape (domain,), 0 for a domain not in the mixture."""
        names = self.domains if domains is None else domains
        return np.array([self.proportions.get(name, 0.0) for name in names])

    def __iter__(self) -> Iterator[tuple[str, float]]:
        return iter(self.proportions.items())


def checked_budget(tokens: float) -> int:
    """A token budget as a positive whole number. Raises InvalidBudget otherwise."""
    if not isfinite(tokens) or tokens < 1:
        raise InvalidBudget(f"A token budget must be at least 1 token, not {tokens}.")
    return int(tokens)
