"""Which mixtures to train proxy runs on.

The natural, the uniform and the conditional-entropy mixture, then points around them: a
scrambled Sobol sequence multiplies their shares by factors between 1/SPREAD and SPREAD,
and of many such candidates those are taken that lie farthest from all taken so far in
log share, since a power law in the share is told by the spread of log shares.

Source of the distance rule: maximin designs (Johnson, Moore & Ylvisaker 1990), taken greedily.
Limits: every share is at least its floor, because proxy runs at tiny shares measure noise, and at
most its cap; a natural mixture with a smaller share is raised there and its larger shares lowered.
"""

from collections.abc import Mapping
from math import ceil, fsum, isfinite, log, log2

import numpy as np
from scipy.stats import qmc

from mixlab.errors import InvalidMixture, TooFewMixtures
from mixlab.mixture import Array, Mixture

DEFAULT_FLOOR = 0.03
# 2, because the law holds near the mixtures that matter and bends far from them: with 4, held-out
# errors were 0.8 to 1.7 %, with 2 they were 0.7 to 1.1 % (EXPERIMENTS.md).
SPREAD = 2.0
FEWEST = 3
# Below this distance in log share (a factor of 1.01) two mixtures count as one.
DISTINCT = 0.01
SMALLEST = 1e-9  # a share of 0 is scaled as this, so that its logarithm is finite


def design_mixtures(
    natural: Mixture,
    conditional_entropy: Mixture,
    *,
    count: int,
    floor: float | Mapping[str, float] = DEFAULT_FLOOR,
    upper: Mapping[str, float] | None = None,
    seed: int = 0,
) -> dict[str, Mixture]:
    """`count` distinct mixtures by label: "natural", "uniform", "conditional_entropy",
    "design-01", ... in this order. The same arguments give the same design.

    `floor` is the least share of every domain, or of those named (of the others, the default
    floor or as much of it as leaves room); `upper` the largest of those named. A natural or
    conditional-entropy mixture that equals the uniform one, or each other, leaves its place to
    one more designed point; "uniform", as far as the bounds allow it, is always there. Raises
    TooFewMixtures below 3, and InvalidMixture for other domains in the two mixtures, fewer than
    two domains, or bounds that leave no room for so many mixtures.
    """
    domains = natural.domains
    _check(natural, conditional_entropy, count, floor)
    low, high = _bounds(domains, floor, upper or {})
    named = {
        "natural": within(natural.shares(), low, high),
        "uniform": within(np.full(len(domains), 1 / len(domains)), low, high),
        "conditional_entropy": within(conditional_entropy.shares(domains), low, high),
    }
    taken = _distinct(named)
    candidates = _candidates(np.array(list(taken.values())), count, low, high, seed)
    chosen = _farthest(candidates, list(taken.values()), count - len(taken))
    taken |= {f"design-{number:02d}": shares for number, shares in enumerate(chosen, start=1)}
    return {label: Mixture.of(domains, shares) for label, shares in taken.items()}


def _farthest(candidates: Array, taken: list[Array], wanted: int) -> list[Array]:
    """Candidates, (candidate, domain), taken one by one, each the farthest from all so far."""
    nearest = np.array([_distance(shares, np.array(taken)) for shares in candidates])
    chosen: list[Array] = []
    while len(chosen) < wanted:
        best = int(np.argmax(nearest))
        if nearest[best] < DISTINCT:
            raise InvalidMixture(
                f"Above this floor were found only {len(taken) + len(chosen)} mixtures that differ "
                f"by a hundredth or more, not {len(taken) + wanted}; lower the floor or the count."
            )
        chosen.append(candidates[best])
        # Only distances to the newest are new: each candidate is compared once per mixture.
        nearest = np.minimum(nearest, _distances(candidates, candidates[best]))
    return chosen


def _distinct(named: dict[str, Array]) -> dict[str, Array]:
    """The named shares without those that repeat the uniform or an earlier one."""
    kept = {"uniform": named["uniform"]}
    for label, shares in named.items():
        if _distance(shares, np.array(list(kept.values()))) >= DISTINCT:
            kept[label] = shares
    return {label: shares for label, shares in named.items() if label in kept}


def floored(shares: Array, floor: float) -> Array:
    """The shares raised to at least the floor, the others lowered in proportion, summing to 1."""
    return within(shares, np.full(len(shares), floor), np.ones(len(shares)))


def within(shares: Array, low: Array, high: Array) -> Array:
    """clip(factor * shares, low, high), with the factor that makes them sum to 1.

    The sum rises with the factor, straight between the factors at which a share meets a bound.
    """
    given = np.maximum(shares, SMALLEST)
    breaks = np.sort(np.concatenate([low / given, high / given]))
    sums = np.clip(breaks[:, None] * given, low, high).sum(axis=1)
    after = int(np.clip(np.searchsorted(sums, 1.0), 1, len(breaks) - 1))
    rise = sums[after] - sums[after - 1]
    part = (1 - sums[after - 1]) / rise if rise > 0 else 1.0
    factor = breaks[after - 1] + part * (breaks[after] - breaks[after - 1])
    found = np.clip(factor * given, low, high)
    free = (found > low) & (found < high)
    # What rounding left goes where there is room.
    if free.any():
        found[free] += (1 - found.sum()) * found[free] / found[free].sum()
    return np.asarray(found)


def _bounds(
    domains: tuple[str, ...], floor: float | Mapping[str, float], upper: Mapping[str, float]
) -> tuple[Array, Array]:
    """Floor and cap of every domain. Raises InvalidMixture where they leave no room."""
    floors = dict.fromkeys(domains, floor) if isinstance(floor, float | int) else floor
    for what, named in (("floor", floors), ("cap", upper)):
        for name, share in named.items():
            if name not in domains or not isfinite(share) or not 0 <= share <= 1:
                raise InvalidMixture(
                    f"The {what} of {name!r} is {share}; it must be a share from 0 to 1 of one "
                    f"of the domains {', '.join(domains)}."
                )
    room = max(0.0, 1 - fsum(floors.values())) / (2 * len(domains))
    high = np.array([upper.get(name, 1.0) for name in domains])
    low = np.array([floors.get(name, min(DEFAULT_FLOOR, room)) for name in domains])
    unasked = np.array([name not in floors for name in domains])
    low = np.where(unasked, np.minimum(low, high / 2), low)
    if np.any(low > high) or low.sum() >= 1 or high.sum() <= 1:
        raise InvalidMixture(
            f"Floors of {low.sum():.4g} and caps of {high.sum():.4g} in all leave no room; floors "
            "must sum to less than 1, caps to more, and no floor lie above its cap."
        )
    return low, high


def _check(
    natural: Mixture,
    conditional_entropy: Mixture,
    count: int,
    floor: float | Mapping[str, float],
) -> None:
    domains = natural.domains
    if count < FEWEST:
        raise TooFewMixtures(
            f"A design needs at least {FEWEST} mixtures (natural, uniform, conditional entropy), "
            f"not {count}."
        )
    if set(conditional_entropy.domains) != set(domains):
        raise InvalidMixture(
            f"The natural mixture has the domains {', '.join(domains)}, the conditional-entropy "
            f"mixture {', '.join(conditional_entropy.domains)}; they must be the same."
        )
    if len(domains) < 2:
        raise InvalidMixture(f"One domain ({domains[0]}) leaves nothing to mix; give at least 2.")
    if isinstance(floor, Mapping):
        return
    if not isfinite(floor) or floor < 0 or floor * len(domains) >= 1:
        raise InvalidMixture(
            f"A floor of {floor} for each of {len(domains)} domains leaves no room; it must be "
            f"at least 0 and below {1 / len(domains):.4g}."
        )
    smallest = min(natural.shares().min(), conditional_entropy.shares().min())
    if floor == 0 and smallest <= 0:
        raise InvalidMixture(
            "A domain has a share of 0; give a floor above 0 to observe it at all."
        )


def _candidates(centres: Array, count: int, low: Array, high: Array, seed: int) -> Array:
    """Shares around the centres in turn, (candidate, domain)."""
    size = 2 ** ceil(log2(max(256, 16 * count)))
    sobol = qmc.Sobol(centres.shape[1], rng=np.random.default_rng(seed))
    factors = np.exp(log(SPREAD) * (2 * sobol.random(size) - 1))
    around = centres[np.arange(size) % len(centres)] * factors
    around /= around.sum(axis=1, keepdims=True)
    return np.array([within(shares, low, high) for shares in around])


def _distance(shares: Array, others: Array) -> float:
    """Distance in log share to the nearest of the others, (other, domain)."""
    return float(_distances(others, shares).min())


def _distances(others: Array, shares: Array) -> Array:
    """Distance in log share to each of the others, (other,)."""
    gaps = np.log(others) - np.log(shares)
    return np.asarray(np.sqrt((gaps**2).sum(axis=1)))
