"""Observations made by a law with known parameters, for tests and benchmarks of fits."""

import numpy as np

from mixlab.design import design_mixtures
from mixlab.laws import BIMIX, Inputs
from mixlab.mixture import Mixture
from mixlab.runs import Observations

TRUTH = np.array([8.0, 0.12, 0.35, 1.9])  # scale, alpha, beta, floor
STEPS = (30, 60, 120, 250, 500, 1000)


def mixtures(domains: int, count: int, seed: int = 0) -> np.ndarray:
    """Designed mixtures around a skewed natural one, (mixture, domain)."""
    names = [f"d{index}" for index in range(domains)]
    natural = Mixture.of(names, 0.7 ** np.arange(domains))
    entropy = Mixture.of(names, np.linspace(1, 2, domains))
    floor = min(0.03, 0.3 / domains)
    design = design_mixtures(natural, entropy, count=count, floor=floor, seed=seed)
    return np.array([mixture.shares(names) for mixture in design.values()])


def observe(
    shares: np.ndarray, *, truth: np.ndarray = TRUTH, steps: tuple[int, ...] = STEPS,
    noise: float = 0.0, run_noise: float = 0.0, seed: int = 0,
) -> Observations:  # fmt: skip
    """Losses of every domain under every mixture at every step.

    `truth` is (4,) for all domains or (domain, 4). Relative noise is independent per row,
    `run_noise` the same for all steps of a run. Where the share is 0, outside the law, the
    loss is 9.
    """
    rng = np.random.default_rng(seed)
    count, domains = shares.shape
    truths = np.broadcast_to(truth, (domains, 4))
    proportions = np.repeat(shares, len(steps), axis=0)
    at = np.tile(np.array(steps, dtype=float), count)
    unknown = np.full(len(at), np.nan)
    losses = np.stack(
        [_losses(truths[i], Inputs(proportions, at, i, unknown, unknown)) for i in range(domains)],
        axis=1,
    )
    shared = np.repeat(rng.normal(size=(count, domains)), len(steps), axis=0)
    losses *= np.exp(noise * rng.normal(size=losses.shape) + run_noise * shared)
    names = tuple(f"d{index}" for index in range(domains))
    runs = tuple(f"run-{index // len(steps)}" for index in range(len(at)))
    return Observations(runs, names, names, proportions, at, at * 4096, losses, unknown, unknown)


def _losses(truth: np.ndarray, inputs: Inputs) -> np.ndarray:
    losses = np.full(len(inputs.steps), 9.0)
    present = inputs.own_share > 0
    losses[present] = BIMIX.predict(truth, inputs.take(present))
    return losses
