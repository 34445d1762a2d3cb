"""Regret against the number of runs where the truth is known."""

from functools import partial

import numpy as np

from benchmarks.design.truths import DOMAINS, LEAST, truth
from benchmarks.design.ways import STEP, WAYS, Asked, observations
from mixlab.fitting import fit
from mixlab.laws import LAWS
from mixlab.mixture import Mixture
from mixlab.solvers import Constraints, Objective, solve

LAW = "bimix_tilt"
# Runs after which a mixture is proposed: ways that don't look at losses need no small batches.
COUNTS = {
    "random": (8, 16, 24, 32, 48, 64),
    "filling": (8, 16, 24, 32, 48, 64),
    "next runs": (8, 12, 16, 20, 24, 28, 32),
}
NAMES = tuple(f"d{number}" for number in range(DOMAINS))
BOUNDS = Constraints(lower=dict.fromkeys(NAMES, LEAST))


def path(world: str, way: str, seed: int) -> dict[int, float]:
    """Regret in nats by number of runs, of one way in one world."""
    true = truth(world, seed)
    noise = np.random.default_rng((seed, 9))
    ask = partial(Asked, domains=NAMES, constraints=BOUNDS, seed=seed)
    counts = COUNTS[way]
    mixtures: list[Mixture] = WAYS[way](ask(None, None, count=counts[0]))
    losses, found = np.empty((0, DOMAINS)), {}
    for following in (*counts[1:], None):
        shares = np.array([one.shares(NAMES) for one in mixtures])
        losses = np.concatenate([losses, true.measured(shares[len(losses) :], noise)])
        seen = observations(NAMES, NAMES, shares, losses)
        fitted = fit(LAWS[LAW], seen, profiles=False, heldout=False)
        solution = solve(fitted, Objective(STEP), BOUNDS)
        found[len(mixtures)] = true.regret(solution.mixture.shares(NAMES))
        if following is not None:
            mixtures += WAYS[way](ask(fitted, seen, count=following - len(mixtures)))
    return found
