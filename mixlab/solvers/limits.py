"""Constraints that tie several domains together: groups, linear inequalities, nearness.

group    lower <= sum of the group's shares <= upper
linear   lower <= sum_i c_i r_i <= upper
near     KL(r || reference) = sum_i r_i log(r_i / reference_i) <= kl_nats
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite, isnan

from mixlab.errors import InfeasibleConstraints
from mixlab.mixture import Mixture


@dataclass(frozen=True)
class Group:
    """Bounds on the shares of several domains together."""

    domains: Sequence[str]
    lower: float = 0.0
    upper: float = 1.0

    def __post_init__(self) -> None:
        if not self.domains:
            raise InfeasibleConstraints("A group needs at least one domain; none was given.")
        if isinstance(self.domains, str):
            raise InfeasibleConstraints(
                f"A group's domains are a list of names, not the text {self.domains!r}."
            )
        twice = sorted({name for name in self.domains if list(self.domains).count(name) > 1})
        if twice:
            raise InfeasibleConstraints(f"A group names {', '.join(map(repr, twice))} twice.")
        for name, share in (("lower", self.lower), ("upper", self.upper)):
            if not isfinite(share) or not 0 <= share <= 1:
                raise InfeasibleConstraints(
                    f"The {name} bound of a group is {share}; a share lies in 0 to 1."
                )


@dataclass(frozen=True)
class Linear:
    """Bounds on a weighted sum of shares; a domain without a coefficient counts 0."""

    coefficients: Mapping[str, float]
    lower: float = -inf
    upper: float = inf
    name: str | None = None

    def __post_init__(self) -> None:
        if not any(self.coefficients.values()):
            raise InfeasibleConstraints(
                "A linear constraint needs a coefficient other than 0; else it says nothing."
            )
        for domain, value in self.coefficients.items():
            if not isfinite(value):
                raise InfeasibleConstraints(
                    f"The coefficient of {domain!r} is {value}; coefficients are finite."
                )
        if isnan(self.lower) or isnan(self.upper) or self.lower == inf or self.upper == -inf:
            raise InfeasibleConstraints(
                f"A linear constraint's bounds are {self.lower} and {self.upper}; give numbers."
            )
        if not isfinite(self.lower) and not isfinite(self.upper):
            raise InfeasibleConstraints("A linear constraint needs a lower or an upper bound.")

    @property
    def label(self) -> str:
        """Its name, or the sum in words."""
        terms = " + ".join(f"{value:g} {domain}" for domain, value in self.coefficients.items())
        return self.name or terms


@dataclass(frozen=True)
class Near:
    """A greatest distance from a reference mixture, in nats of KL(mixture || reference).

    A domain of which the reference has nothing gets nothing.
    """

    mixture: Mixture
    kl_nats: float

    def __post_init__(self) -> None:
        if not isfinite(self.kl_nats) or self.kl_nats <= 0:
            raise InfeasibleConstraints(
                f"A distance from a reference mixture must be above 0 nats, not {self.kl_nats}; "
                "to keep the reference itself, no solving is needed."
            )
