"""Repeated tokens count for less: a discount in place of a hard cap on epochs.

A domain with U unique tokens that is read for e = r * budget / U epochs counts as

    U * e                                    for e <= 1
    U * (1 + R * (1 - exp(-(e - 1) / R)))    for e > 1

tokens, so its effective share g(r) is that over the budget. Source: Muennighoff et al., arXiv
2305.16264, eq. 5-6, whose fit found R = 15.39 for data.

Effective shares sum to less than 1, and laws read them as they are, at the full budget's step:
a share stands for the tokens of that domain that teach something, and what is lost in repeats
of one domain makes no other domain's tokens worth more. Scaling shares back to 1 would: wasting
tokens on one domain would then seem to help the others.

g is concave and rises, so a loss that is convex and falls with every share stays convex in r. For
a law that rises with some share (exponential laws may) it need not; that is checked at the
region's corners, and such a law is solved locally. Nor do such laws say what a sum below 1 means.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite

import numpy as np

from mixlab.errors import InfeasibleConstraints
from mixlab.fitting.surface import Surface
from mixlab.laws import Mask
from mixlab.mixture import Array

DATA_R_STAR = 15.39


@dataclass(frozen=True)
class Repetition:
    """How fast repeats lose their worth: after r_star repeats, most of it is gone."""

    r_star: float = DATA_R_STAR

    def __post_init__(self) -> None:
        if not isfinite(self.r_star) or self.r_star <= 0:
            raise InfeasibleConstraints(
                f"r_star must be above 0, not {self.r_star}; arXiv 2305.16264 has {DATA_R_STAR}."
            )

    def unique_shares(
        self, domains: Sequence[str], tokens: Mapping[str, float], budget: float
    ) -> Array:
        """Tokens of each domain over the budget, (domain,); infinite where not known."""
        return np.array([tokens.get(name, np.inf) for name in domains]) / budget


@dataclass(frozen=True)
class Discounted:
    """A surface that reads each share as what it counts for."""

    surface: Surface
    unique: Array  # (domain,), a share that is read once; infinite without a limit
    r_star: float
    falls: bool = True  # whether no loss rises with any share in the region of interest

    @property
    def domains(self) -> tuple[str, ...]:
        """Of the surface."""
        return self.surface.domains

    @property
    def targets(self) -> tuple[str, ...]:
        """Of the surface."""
        return self.surface.targets

    @property
    def convex(self) -> bool:
        """Whether the losses are convex in the shares before the discount."""
        return self.surface.convex and self.falls

    @property
    def smooth(self) -> bool:
        """Of the surface."""
        return self.surface.smooth

    @property
    def share_floor(self) -> float:
        """Of the surface."""
        return self.surface.share_floor

    @property
    def defined_at_zero(self) -> Mask:
        """Of the surface."""
        return self.surface.defined_at_zero

    @property
    def parts(self) -> tuple[object, ...]:
        """Of the surface."""
        return self.surface.parts

    @cached_property
    def stacked(self) -> "Discounted | None":
        """All replicates in one."""
        stack = self.surface.stacked
        return None if stack is None else self._with(stack)

    @cached_property
    def replicates(self) -> "tuple[Discounted, ...]":
        """One per bootstrap replicate."""
        return tuple(self._with(one) for one in self.surface.replicates)

    def only(self, targets: Collection[str]) -> "Discounted":
        """The surface of these targets."""
        return self._with(self.surface.only(targets))

    def losses(self, shares: Array) -> Array:
        """Nats per token, (..., row, target)."""
        return self.surface.losses(self.effective(shares))

    def gradients(self, shares: Array) -> Array:
        """Slope of each loss by each share at one mixture: (..., target, domain)."""
        return self.surface.gradients(self.effective(shares)) * self.slope(shares)

    def weighted_gradients(self, shares: Array, weights: Array) -> Array:
        """Slope of sum weights * losses at each row, (row, domain)."""
        inner = self.surface.weighted_gradients(self.effective(shares), weights)
        return np.asarray(inner * self.slope(shares))

    def effective(self, shares: Array) -> Array:
        """What the shares count for, (..., domain)."""
        repeats = self._repeats(shares)
        worth = -self.r_star * np.expm1(-repeats / self.r_star)
        again = self._finite * worth
        return np.where(repeats > 0, self._finite + again, shares)

    def slope(self, shares: Array) -> Array:
        """What a little more of each share counts for, (..., domain): 1 up to one epoch."""
        return np.exp(-self._repeats(shares) / self.r_star)

    def by_unique(self, shares: Array) -> Array:
        """How the effective share rises with the share that is read once, (..., domain)."""
        repeats = self._repeats(shares)
        left = np.exp(-repeats / self.r_star)
        return np.where(repeats > 0, 1 + self.r_star * (1 - left) - left * (1 + repeats), 0.0)

    def _repeats(self, shares: Array) -> Array:
        return np.where(np.isfinite(self.unique), np.maximum(shares / self._finite - 1, 0.0), 0.0)

    @cached_property
    def _finite(self) -> Array:
        return np.where(np.isfinite(self.unique), self.unique, 1.0)

    def _with(self, surface: Surface) -> "Discounted":
        return Discounted(surface, self.unique, self.r_star, self.falls)
