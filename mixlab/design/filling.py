"""First runs where nothing is known of the domains but bounds: points that fill the region.

For users without a natural or a conditional-entropy mixture; with them, `design_mixtures` stays
near those. Floors, caps, groups and the like are the solver's constraints.
"""

from collections.abc import Sequence

import numpy as np

from mixlab.design.points import even, farthest
from mixlab.errors import InvalidMixture, TooFewMixtures
from mixlab.mixture import Array, Mixture
from mixlab.solvers.constraints import Constraints
from mixlab.solvers.region import Region, region

CANDIDATES_PER_POINT, FEWEST_CANDIDATES, MOST_CANDIDATES = 32, 1024, 16384


def filling_mixtures(
    domains: Sequence[str],
    *,
    count: int,
    constraints: Constraints | None = None,
    taken: Sequence[Mixture] = (),
    seed: int = 0,
    reach: float = 1.0,
) -> dict[str, Mixture]:
    """`count` mixtures that obey the constraints and lie far apart, by label "design-01", ...

    They keep away from those `taken` already, and below a `reach` of 1 from the region's ends: that
    part of the way from its middle is left to them. The same arguments give the same design. Raises
    InvalidMixture for fewer than two domains or where too few mixtures differ, TooFewMixtures
    for a count below 1, and InfeasibleConstraints where no mixture obeys.
    """
    names = tuple(domains)
    if len(names) < 2 or len(set(names)) < len(names):
        raise InvalidMixture(
            f"A design needs at least 2 domains with names of their own, not {', '.join(names)}."
        )
    if count < 1:
        raise TooFewMixtures(f"A design needs at least 1 mixture, not {count}.")
    size = min(MOST_CANDIDATES, max(FEWEST_CANDIDATES, CANDIDATES_PER_POINT * count))
    candidates = even(allowed(constraints or Constraints(), names), size, seed)
    middle = candidates.mean(axis=0)
    candidates = middle + reach * (candidates - middle)
    chosen = farthest(candidates, shares_of(taken, names), count)
    return labelled("design", [Mixture.of(names, row) for row in chosen])


def allowed(constraints: Constraints, domains: tuple[str, ...]) -> Region:
    """The region of the constraints alone. Raises InfeasibleConstraints where it is empty."""
    low, high = constraints.bounds(domains)
    return region(constraints, domains, low, high)


def shares_of(mixtures: Sequence[Mixture], domains: tuple[str, ...]) -> Array:
    """Mixtures as an array, (mixture, domain). Raises InvalidMixture for unknown domains."""
    for mixture in mixtures:
        unknown = [name for name in mixture.domains if name not in domains]
        if unknown:
            raise InvalidMixture(
                f"A mixture names {', '.join(map(repr, unknown))}; the domains are "
                f"{', '.join(domains)}."
            )
    found = np.array([mixture.shares(domains) for mixture in mixtures])
    return found.reshape(len(mixtures), len(domains))


def labelled(word: str, mixtures: Sequence[Mixture]) -> dict[str, Mixture]:
    """Mixtures by label, numbered from 1."""
    return {f"{word}-{number:02d}": one for number, one in enumerate(mixtures, start=1)}
