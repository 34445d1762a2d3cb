"""RegMix's 512 runs as an oracle: a design may ask for any of them, and proposes one.

The proposal is the pool's mixture of least mean loss over the 13 targets, measured where it was
run and predicted where not; its regret, its measured mean loss above the pool's least.
"""

from pathlib import Path

import numpy as np

from benchmarks.design.ways import WAYS, Asked, mixtures, observations
from benchmarks.laws.tables import regmix
from mixlab.fitting import fit
from mixlab.laws import LAWS
from mixlab.solvers import Constraints

LAW = "bimix_saturating"
ANY = Constraints()
COUNTS = {"random": (16, 32, 48, 64, 96, 128), "next runs": (16, 24, 32, 40, 48)}


def path(folder: Path, way: str, seed: int) -> dict[int, float]:
    """Regret in nats by number of runs."""
    table = regmix(folder).train
    shares = table.proportions / table.proportions.sum(axis=1, keepdims=True)
    means = table.losses_nats.mean(axis=1)
    pool = observations(table.domains, table.targets, shares, table.losses_nats)
    counts = COUNTS[way]
    taken = list(np.random.default_rng((seed, 11)).choice(len(pool), counts[0], replace=False))
    found = {}
    for following in (*counts[1:], None):
        seen = pool.take(taken)
        fitted = fit(LAWS[LAW], seen, profiles=False, heldout=False)
        predicted = fitted.losses(shares, float(pool.steps[0])).mean(axis=1)
        predicted[taken] = means[taken]
        found[len(taken)] = float(means[np.argmin(predicted)] - means.min())
        if following is not None:
            left = np.setdiff1d(np.arange(len(pool)), taken)
            offered = tuple(mixtures(pool.take(left)))
            asked = Asked(fitted, seen, pool.domains, ANY, following - len(taken), seed, offered)
            taken += [int(left[offered.index(one)]) for one in WAYS[way](asked)]
    return found
