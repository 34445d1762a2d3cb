"""Ways to choose the next runs: at random, filling the space, or by what they tell."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mixlab.design import filling_mixtures, next_of, next_runs
from mixlab.fitting import Fit
from mixlab.mixture import Mixture
from mixlab.runs import Observations
from mixlab.solvers import Constraints, Objective

STEP = 1000
REACH = 0.6  # of the way from the middle to the ends, for first runs before others by losses


@dataclass(frozen=True)
class Asked:
    """What a way is told: the fit so far, the runs behind it, and what may be run."""

    fit: Fit | None
    seen: Observations | None
    domains: tuple[str, ...]
    constraints: Constraints
    count: int
    seed: int
    candidates: tuple[Mixture, ...] | None = None  # None where any mixture may be run


Way = Callable[[Asked], list[Mixture]]


def random(asked: Asked) -> list[Mixture]:
    """Dirichlet(1, ..., 1) above the least shares, or any of the candidates."""
    made = 0 if asked.seen is None else len(asked.seen)
    rng = np.random.default_rng((asked.seed, made, 1))
    if asked.candidates is not None:
        chosen = rng.choice(len(asked.candidates), asked.count, replace=False)
        return [asked.candidates[index] for index in chosen]
    low, _ = asked.constraints.bounds(asked.domains)
    drawn = rng.dirichlet(np.ones(len(low)), asked.count)
    return [Mixture.of(asked.domains, row) for row in low + (1 - low.sum()) * drawn]


def filling(asked: Asked, reach: float = 1.0) -> list[Mixture]:
    """Each the farthest from those before."""
    taken = [] if asked.seen is None else mixtures(asked.seen)
    found = filling_mixtures(
        asked.domains, count=asked.count, constraints=asked.constraints, taken=taken,
        seed=asked.seed, reach=reach,
    )  # fmt: skip
    return list(found.values())


def telling(asked: Asked) -> list[Mixture]:
    """What `mixlab.design` proposes; the first runs fill the middle of the space."""
    if asked.fit is None or asked.seen is None:
        return filling(asked, REACH)
    objective, count = Objective(STEP), asked.count
    if asked.candidates is not None:
        proposed = next_of(
            asked.fit, asked.seen, objective, asked.candidates, count=count, seed=asked.seed
        )
    else:
        proposed = next_runs(
            asked.fit, asked.seen, objective, asked.constraints, count=count, seed=asked.seed
        )
    return list(proposed.mixtures.values())


def mixtures(seen: Observations) -> list[Mixture]:
    """The mixture of every row."""
    return [Mixture.of(seen.domains, row) for row in seen.proportions]


def observations(
    domains: tuple[str, ...], targets: tuple[str, ...], shares: np.ndarray, losses: np.ndarray
) -> Observations:
    """One row a run, all of one step and size."""
    count = len(shares)
    same, unknown = np.full(count, float(STEP)), np.full(count, np.nan)
    names = tuple(f"run-{number}" for number in range(count))
    return Observations(names, domains, targets, shares, same, same * 1e6, losses, unknown, unknown)


WAYS: dict[str, Way] = {"random": random, "filling": filling, "next runs": telling}
