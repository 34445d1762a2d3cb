"""Mixtures drawn evenly from a region, and the best of them for laws without slopes.

Even draws are Dirichlet(1, ..., 1) draws under the constraints, made by hit and run (Smith 1984):
from a point inside, again and again along a random line to a random point of it. For laws
without slopes, RegMix's way (arXiv 2407.01492): the mean of the 100 best of many draws; it obeys
the constraints too, as the region is convex.
"""

import numpy as np

from mixlab.laws import Mask
from mixlab.mixture import Array
from mixlab.solvers.problem import Problem
from mixlab.solvers.region import Inside, Region, divergence

CHAINS, BEST = 512, 100
ROUNDS = 40  # of draws in the sampled way, each of all chains
HALVINGS = 40


def samples(region: Region, start: Inside, count: int, *, seed: int) -> Array:
    """Mixtures that obey, (count, domain), evenly distributed; the same for the same seed."""
    basis = _free(region, start)
    if not len(basis) or count < 1:
        return np.tile(start.shares, (max(count, 0), 1))
    rng = np.random.default_rng(seed)
    chains = min(count, CHAINS)
    at = np.tile(start.shares, (chains, 1))
    mixing = 20 + 4 * len(basis)
    drawn: list[Array] = []
    for turn in range(mixing + 3 * (-(-count // chains))):
        at = _hit(region, at, basis, rng)
        if turn >= mixing and (turn - mixing) % 3 == 2:
            drawn.append(at)
    return np.vstack(drawn)[:count]


def _free(region: Region, start: Inside) -> Array:
    """Ways along which the region has room, (way, domain)."""
    size = len(region.domains)
    held = np.vstack([np.ones((1, size)), region.matrix[list(start.equal)]])
    _, sizes, axes = np.linalg.svd(held)
    return np.asarray(axes[int((sizes > 1e-9 * sizes[0]).sum()) :])


def _hit(region: Region, at: Array, basis: Array, rng: np.random.Generator) -> Array:
    ways = rng.normal(size=(len(at), len(basis))) @ basis
    slack = np.maximum(region.limits - at @ region.matrix.T, 0.0)
    rise = ways @ region.matrix.T
    small = np.abs(rise) <= 1e-12
    safe = np.where(small, 1.0, rise)
    reach = np.where(small, np.inf, slack / safe)
    ahead = np.min(np.where(rise > 1e-12, reach, np.inf), axis=1)
    behind = np.max(np.where(rise < -1e-12, reach, -np.inf), axis=1)
    if region.reference is not None:
        ahead = _near(region, at, ways, ahead)
        behind = _near(region, at, ways, behind)
    steps = behind + rng.random(len(at)) * (ahead - behind)
    return np.asarray(np.maximum(at + steps[:, None] * ways, 0.0))


def _near(region: Region, at: Array, ways: Array, ends: Array) -> Array:
    """How much of the way stays near the reference, by halving: the region is convex."""
    assert region.reference is not None
    inside, outside = np.zeros(len(at)), ends.copy()
    for _ in range(HALVINGS):
        middle = (inside + outside) / 2
        shares = np.maximum(at + middle[:, None] * ways, 0.0)
        fine: Mask = divergence(shares, region.reference) <= region.kl_nats
        inside, outside = np.where(fine, middle, inside), np.where(fine, outside, middle)
    whole = np.maximum(at + ends[:, None] * ways, 0.0)
    return np.where(divergence(whole, region.reference) <= region.kl_nats, ends, inside)


def best_of_samples(problem: Problem, *, seed: int = 0) -> Array:
    """The mean of the best of many draws, (domain,)."""
    drawn = samples(problem.region, problem.start, CHAINS * ROUNDS, seed=seed)
    values = problem.program.values(drawn)
    best = drawn[np.argsort(values, kind="stable")[:BEST]]
    return np.asarray(best.mean(axis=0))
