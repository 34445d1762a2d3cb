"""Made-up worlds: true losses of seven domains, of which none is exactly the law that is fitted.

tilted       bimix_tilt itself: the law is right
exponential  level + depth * exp(sum_j slope_j r_j), Ye et al.'s form: its own share saturates
paired       log loss with a bend of its own for every pair of domains: not convex, and of no law
             in the registry
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

Losses = Callable[[np.ndarray], np.ndarray]  # (row, domain) to (row, target)

DOMAINS = 7
LEAST = 0.01  # share of any domain, in runs and in answers
NOISE = 0.005  # of a run's log loss: two seeds of a small run differ by about this


@dataclass(frozen=True)
class Truth:
    """True losses, and the least mean of them under the bounds."""

    name: str
    losses: Losses
    least: float

    def regret(self, shares: np.ndarray) -> float:
        """True mean loss at a mixture above the least, in nats."""
        return float(self.losses(shares[None, :]).mean()) - self.least

    def measured(self, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Losses with a run's noise, (row, target)."""
        true = self.losses(shares)
        return true * np.exp(NOISE * rng.standard_normal(true.shape))


def tilted(rng: np.random.Generator) -> Losses:
    """bimix_tilt at one step."""
    base, alpha = rng.uniform(1.5, 3.5, DOMAINS), rng.uniform(0.05, 0.2, DOMAINS)
    leak = np.exp(rng.normal(np.log(0.03), 0.7, DOMAINS))
    worth = leak[:, None] * np.exp(rng.normal(0, 1, (DOMAINS, DOMAINS)))
    np.fill_diagonal(worth, 1)
    tilt = rng.normal(0, 0.06, (DOMAINS, DOMAINS))
    np.fill_diagonal(tilt, 0)
    return lambda rows: base * np.exp(rows @ tilt.T) * (rows @ worth.T) ** -alpha


def exponential(rng: np.random.Generator) -> Losses:
    """Ye et al.'s law (arXiv 2403.16952)."""
    level, depth = 0.6 * rng.uniform(1.5, 3.5, DOMAINS), rng.uniform(1, 2.5, DOMAINS)
    slope = rng.normal(0, 0.3, (DOMAINS, DOMAINS))
    np.fill_diagonal(slope, -rng.uniform(3, 9, DOMAINS))
    return lambda rows: level + depth * np.exp(rows @ slope.T)


def paired(rng: np.random.Generator) -> Losses:
    """Log loss = -alpha log(r_own + leak) - help . sqrt(r) + r' bend r."""
    base, alpha = rng.uniform(1.5, 3.5, DOMAINS), rng.uniform(0.05, 0.2, DOMAINS)
    leak = rng.uniform(0.004, 0.03, DOMAINS)
    helps = np.abs(rng.normal(0, 0.04, (DOMAINS, DOMAINS)))
    bend = rng.normal(0, 0.12, (DOMAINS, DOMAINS, DOMAINS)) / np.sqrt(2)

    def losses(rows: np.ndarray) -> np.ndarray:
        bent = np.einsum("ijk,nj,nk->ni", bend, rows, rows)
        logs = -alpha * np.log(rows + leak) - np.sqrt(rows) @ helps.T + bent
        return np.asarray(base * np.exp(logs))

    return losses


WORLDS = {"tilted": tilted, "exponential": exponential, "paired": paired}


def truth(name: str, seed: int) -> Truth:
    """One world of that kind."""
    losses = WORLDS[name](np.random.default_rng((seed, 7)))
    return Truth(name, losses, _least(losses, seed))


def _least(losses: Losses, seed: int) -> float:
    """By L-BFGS from the best of many mixtures, shares as a softmax."""

    def shares(free: np.ndarray) -> np.ndarray:
        parts = np.exp(free - free.max(axis=-1, keepdims=True))
        return LEAST + (1 - LEAST * DOMAINS) * parts / parts.sum(axis=-1, keepdims=True)

    def mean(free: np.ndarray) -> float:
        return float(losses(shares(free)[None, :]).mean())

    tried = np.log(np.random.default_rng((seed, 8)).dirichlet(np.ones(DOMAINS), 4096))
    starts = tried[np.argsort(losses(shares(tried)).mean(axis=1))[:6]]
    return min(float(minimize(mean, start, method="L-BFGS-B").fun) for start in starts)
