"""Mixtures that fill a region of the simplex evenly.

Candidates are drawn evenly from the region (mixlab/solvers/sampling.py). Of them those are taken
that lie farthest from all taken so far (maximin: Johnson, Moore & Ylvisaker 1990; taken greedily:
Kennard & Stone 1969), by Hellinger's distance |sqrt(r) - sqrt(r')|, which is finite at shares of
0 and sees a change from 1 to 2 % as larger than one from 31 to 32 %.
"""

import numpy as np

from mixlab.errors import InvalidMixture
from mixlab.mixture import Array
from mixlab.solvers.region import Inside, Region
from mixlab.solvers.sampling import samples
from mixlab.solvers.start import started

# Closer than this, two mixtures count as one: 10.0 and 10.6 % of one domain.
DISTINCT = 0.01


def even(region: Region, count: int, seed: int, start: Inside | None = None) -> Array:
    """Mixtures that obey, evenly distributed, (count, domain)."""
    return samples(region, started(region) if start is None else start, count, seed=seed)


def nearby(centres: Array, mixtures: Array, least: float, seed: int) -> Array:
    """Every mixture moved most of the way to a centre, which both stay obedient: the region is
    convex. `least` of the way is left at least, evenly in its logarithm."""
    rng = np.random.default_rng((seed, 1))
    left = np.exp(rng.uniform(np.log(least), 0.0, (len(mixtures), 1)))
    centre = centres[rng.integers(len(centres), size=len(mixtures))]
    return np.asarray(centre + left * (mixtures - centre))


def distances(others: Array, shares: Array) -> Array:
    """|sqrt(r) - sqrt(r')| of one mixture to each of the others, (other,)."""
    return np.asarray(np.linalg.norm(np.sqrt(others) - np.sqrt(shares), axis=-1))


def nearest(candidates: Array, taken: Array) -> Array:
    """Each candidate's distance to the nearest of those taken, (candidate,)."""
    if not len(taken):
        return np.full(len(candidates), np.inf)
    return np.asarray(np.min([distances(candidates, shares) for shares in taken], axis=0))


def farthest(candidates: Array, taken: Array, count: int, *, least: float = DISTINCT) -> Array:
    """`count` of the candidates, each the farthest from those taken and chosen so far.

    Without any taken, the first is the one nearest to the candidates' mean. Raises
    InvalidMixture where too few differ by `least`.
    """
    gaps = nearest(candidates, taken)
    chosen: list[Array] = []
    while len(chosen) < count:
        best = int(np.argmax(gaps))
        if not len(taken) and not chosen:
            best = int(np.argmin(distances(candidates, candidates.mean(axis=0))))
        if gaps[best] < least:
            raise InvalidMixture(
                f"Within these bounds were found only {len(chosen)} new mixtures that differ "
                f"enough to tell apart, not {count}; widen the bounds or ask for fewer."
            )
        chosen.append(candidates[best])
        gaps = np.minimum(gaps, distances(candidates, candidates[best]))
    return np.array(chosen).reshape(len(chosen), candidates.shape[1])
