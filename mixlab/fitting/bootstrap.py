"""Bootstrap over mixtures: refits to tables drawn with replacement, all in one batch.

A draw takes as many mixtures as there are, with all their rows (runs, in tables without domains),
so that checkpoints of a run stay together; it is a table of row weights, not a copy. Each refit
starts from the estimate, at its strength and robust scale (Efron & Tibshirani 1993; pairs of
clusters: Cameron, Gelbach & Miller 2008).

Limits: the strength is not chosen anew in each draw, and parameters at a limit stay there.
"""

import numpy as np

from mixlab.fitting.heldout import refitted
from mixlab.fitting.least_squares import Estimate
from mixlab.fitting.problem import Problem
from mixlab.mixture import Array

SEED = 0  # the same table gives the same replicates


def replicates(problem: Problem, found: Estimate, clusters: np.ndarray, count: int) -> Array:
    """Values of `count` refits, (replicate, parameter).

    The draws depend on how many mixtures there are alone, so that a replicate of one target goes
    with the same replicate of another wherever both were measured under the same mixtures.
    """
    number = np.unique(clusters, return_inverse=True)[1].reshape(-1)
    mixtures = int(number.max()) + 1
    even = np.full(mixtures, 1 / mixtures)
    draws = np.random.default_rng(SEED).multinomial(mixtures, even, size=count)
    return refitted(problem, found, draws[:, number].astype(float))
