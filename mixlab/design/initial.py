"""Which mixtures to train proxy runs on.

The natural, the uniform and the conditional-entropy mixture, then points around them: a
scrambled Sobol sequence multiplies their shares by factors between 1/SPREAD and SPREAD,
and of many such candidates those are taken that lie farthest from all taken so far in
log share, since a power law in the share is told by the spread of log shares.

Source of the distance rule: maximin designs (Johnson, Moore & Ylvisaker 1990), taken greedily.
Limits: every share is at least the floor, because proxy runs at tiny shares measure noise;
a natural mixture with a smaller share is raised there and its larger shares lowered.
"""

from math import ceil, isfinite, log, log2

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


def design_mixtures(
    natural: Mixture,
    conditional_entropy: Mixture,
    *,
    count: int,
    floor: float = DEFAULT_FLOOR,
    seed: int = 0,
) -> dict[str, Mixture]:
    """`count` distinct mixtures by label: "natural", "uniform", "conditional_entropy",
    "design-01", ... in this order. The same arguments give the same design.

    A natural or conditional-entropy mixture that equals the uniform one, or each other, leaves
    its place to one more designed point; "uniform" is always there. Raises TooFewMixtures
    below 3, and InvalidMixture for other domains in the two mixtures, fewer than two domains,
    or a floor that leaves no room for so many mixtures.
    """
    domains = natural.domains
    _check(natural, conditional_entropy, count, floor)
    named = {
        "natural": floored(natural.shares(), floor),
        "uniform": np.full(len(domains), 1 / len(domains)),
        "conditional_entropy": floored(conditional_entropy.shares(domains), floor),
    }
    taken = _distinct(named)
    candidates = _candidates(np.array(list(taken.values())), count, floor, seed)
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
    low = np.zeros(len(shares), dtype=bool)
    for _ in shares:
        room = 1 - floor * low.sum()
        rest = shares[~low].sum()
        raised = np.where(low, floor, shares * (room / rest if rest > 0 else 0.0))
        if np.array_equal(low, low | (raised < floor)):
            return np.asarray(raised)
        low |= raised < floor
    # Only rounding at floor * domains = 1 leads here.
    return np.full(len(shares), 1 / len(shares))


def _check(natural: Mixture, conditional_entropy: Mixture, count: int, floor: float) -> None:
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


def _candidates(centres: Array, count: int, floor: float, seed: int) -> Array:
    """Shares around the centres in turn, (candidate, domain)."""
    size = 2 ** ceil(log2(max(256, 16 * count)))
    sobol = qmc.Sobol(centres.shape[1], rng=np.random.default_rng(seed))
    factors = np.exp(log(SPREAD) * (2 * sobol.random(size) - 1))
    around = centres[np.arange(size) % len(centres)] * factors
    around /= around.sum(axis=1, keepdims=True)
    return np.array([floored(shares, floor) for shares in around])


def _distance(shares: Array, others: Array) -> float:
    """Distance in log share to the nearest of the others, (other, domain)."""
    return float(_distances(others, shares).min())


def _distances(others: Array, shares: Array) -> Array:
    """Distance in log share to each of the others, (other,)."""
    gaps = np.log(others) - np.log(shares)
    return np.asarray(np.sqrt((gaps**2).sum(axis=1)))
