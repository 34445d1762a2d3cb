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

LAW = "bimix_tilt"
FIRST, BATCH = 16, 16
ANY = Constraints()
MOST = {"random": 128, "next runs": 96}


def path(folder: Path, way: str, seed: int) -> dict[int, float]:
    """Regret in nats by number of runs."""
    table = regmix(folder).train
    shares = table.proportions / table.proportions.sum(axis=1, keepdims=True)
    means = table.losses_nats.mean(axis=1)
    pool = observations(table.domains, table.targets, shares, table.losses_nats)
    rng = np.random.default_rng((seed, 11))
    taken = list(rng.choice(len(pool), FIRST, replace=False))
    found = {}
    while True:
        seen = pool.take(taken)
        fitted = fit(LAWS[LAW], seen, profiles=False)
        predicted = fitted.losses(shares, float(pool.steps[0])).mean(axis=1)
        predicted[taken] = means[taken]
        found[len(taken)] = float(means[np.argmin(predicted)] - means.min())
        if len(taken) >= MOST[way]:
            return found
        left = np.setdiff1d(np.arange(len(pool)), taken)
        offered = tuple(mixtures(pool.take(left)))
        asked = Asked(fitted, seen, pool.domains, ANY, BATCH, seed + len(taken), offered)
        chosen = WAYS[way](asked)
        taken += [int(left[offered.index(one)]) for one in chosen]
