"""What staying within the shares seen costs and saves, where the truth is known.

Worlds of 7 domains in which every domain helps every other, times a smooth random bend of each
loss (2 % of it, over shares 0.15 or 0.3 apart) that no law knows. Laws are fitted to 14 designed
mixtures, and the solutions' true losses compared with the uniform mixture's. Of twelve worlds
each: the mean and the least true gain, and the gain that the law predicted, in nats.

The truths are of a law's own family but for the bend, which favours going far.

python -m benchmarks.trust
"""

import sys
from collections.abc import Callable

import numpy as np

from mixlab.design import design_mixtures
from mixlab.fitting import Fit, fit
from mixlab.laws import LAWS
from mixlab.mixture import Array, Mixture
from mixlab.runs import Observation, Observations
from mixlab.solvers import Constraints, Objective, solve
from tests.solvers.made import transfer_fit

DOMAINS, WORLDS, RUNS, WAVES = 7, 12, 14, 200
BEND, SEED_NOISE, REPLICATES = 0.02, 0.003, 40
STEPS, STEP = (300, 600, 900), 1000
FACTORS = (1.0, 1.25, 1.5, 2.0, None)
RISKS = (None, 0.0)
FITTED = ("bimix", "bimix_transfer")

True_ = Callable[[Mixture, float], Array]


def world(seed: int, reach: float) -> tuple[tuple[str, ...], True_]:
    """Domains, and the true losses of a mixture at a step, (target,)."""
    plain, rng = transfer_fit(DOMAINS, seed=seed + 10), np.random.default_rng(seed)
    waves = rng.normal(size=(DOMAINS, WAVES, DOMAINS)) / reach
    phases = rng.uniform(0, 2 * np.pi, (DOMAINS, WAVES))

    def losses(mixture: Mixture, step: float) -> Array:
        angles = waves @ mixture.shares(plain.domains) + phases
        bend = BEND * np.sqrt(2 / WAVES) * np.cos(angles).sum(axis=1)
        return np.asarray(list(plain.predict(mixture, step).values()) * np.exp(bend))

    return plain.domains, losses


def observed(names: tuple[str, ...], losses: True_, seed: int) -> Observations:
    """Designed runs, with the noise of seeds."""
    rng = np.random.default_rng(seed)
    natural, entropy = (
        Mixture.normalised(dict(zip(names, rng.dirichlet(np.ones(DOMAINS) * size), strict=True)))
        for size in (4, 20)
    )
    rows = []
    designed = design_mixtures(natural, entropy, count=RUNS, floor=0.03, seed=seed)
    for label, mixture in designed.items():
        noise = 1 + SEED_NOISE * rng.normal(size=DOMAINS)
        for step in STEPS:
            nats = dict(zip(names, (losses(mixture, step) * noise).tolist(), strict=True))
            rows.append(Observation(label, mixture, step, step * 1000, nats))
    return Observations.of(rows)


def gains(found: Fit, losses: True_, trust: float | None, risk: float | None) -> tuple[float, ...]:
    """True and predicted gain over the uniform mixture."""
    best = solve(found, Objective(STEP, risk=risk), Constraints(trust=trust)).mixture
    even = Mixture.uniform(list(found.domains))

    def predicted(mixture: Mixture) -> float:
        return float(np.mean(list(found.predict(mixture, STEP).values())))

    true = losses(even, STEP).mean() - losses(best, STEP).mean()
    return float(true), predicted(even) - predicted(best)


def main() -> None:
    """Print a line for each reach, law, objective and factor."""
    for reach in (0.3, 0.15):
        seen: dict[str, list[tuple[float, ...]]] = {}
        for seed in range(WORLDS):
            names, losses = world(seed, reach)
            runs = observed(names, losses, seed)
            for law in FITTED:
                found = fit(LAWS[law], runs, profiles=False, replicates=REPLICATES)
                for risk in RISKS:
                    for trust in FACTORS:
                        key = f"reach {reach}, {law}, risk {risk}, trust {trust}"
                        seen.setdefault(key, []).append(gains(found, losses, trust, risk))
        for key, pairs in seen.items():
            true, told = np.array(pairs).T
            sys.stdout.write(
                f"{key}: true {true.mean():.4f}, least {true.min():.4f}, predicted "
                f"{told.mean():.4f}\n"
            )


if __name__ == "__main__":
    main()
