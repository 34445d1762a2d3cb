"""Seconds of one fit, beside SciPy without the analytic gradient, and of a bootstrap.

python -m benchmarks.fit_speed
"""

import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter

import numpy as np
from scipy.optimize import least_squares

from mixlab.fitting import fit
from mixlab.laws import BIMIX, LAWS, Inputs
from mixlab.runs import Observations
from tests.synthetic import mixtures, observe

ROUNDS = 5
TRANSFER = LAWS["bimix_transfer"]
STEPS = tuple(int(step) for step in np.geomspace(2000, 20_000, 11))


def measure() -> dict[str, tuple[float, float | None]]:
    """Median seconds, and the seconds that issue and design ask for."""
    plain = observe(mixtures(7, 60), steps=STEPS, noise=0.005)
    small = transferred(mixtures(7, 60), STEPS, targets=7)
    large = transferred(np.random.default_rng(0).dirichlet(np.full(17, 0.4), 512), (1000,), 13)
    return {
        "bimix, 7 targets x 660 rows": (_median(lambda: fit(BIMIX, plain)), None),
        "scipy, the same, numerical gradients, one start": (_median(lambda: _plain(plain)), None),
        "bimix_transfer, 7 targets x 660 rows, strength chosen":
            (_median(lambda: fit(TRANSFER, small)), 1.0),
        "bimix_transfer, 13 targets x 512 rows x 17 domains, strength chosen":
            (_median(lambda: fit(TRANSFER, large), 3), 5.0),
        "bimix_transfer, 7 targets x 660 rows, and 200 bootstrap refits":
            (_median(lambda: fit(TRANSFER, small, replicates=200), 1), 20.0),
    }  # fmt: skip


def transferred(shares: np.ndarray, steps: tuple[int, ...], targets: int) -> Observations:
    """Losses of domains that help each other, with 1% of noise, (mixture, domain) shares."""
    rng = np.random.default_rng(1)
    count, domains = shares.shape
    names = tuple(f"d{index}" for index in range(domains))
    proportions = np.repeat(shares, len(steps), axis=0)
    at = np.tile(np.array(steps, dtype=float), count)
    unknown = np.full(len(at), np.nan)
    losses = []
    for own in range(targets):
        worths = rng.normal(0, 1, domains - 1)
        values = np.array([8.0, 0.12, 0.35, 1.9, 0.05, *worths])
        inputs = Inputs(proportions, at, own, unknown, unknown)
        losses.append(TRANSFER.predict(values, inputs) * np.exp(0.01 * rng.normal(size=len(at))))
    runs = tuple(f"run-{index // len(steps)}" for index in range(len(at)))
    return Observations(
        runs, names, names[:targets], proportions, at, at * 4096, np.stack(losses, axis=1),
        unknown, unknown,
    )  # fmt: skip


def _plain(seen: Observations) -> None:
    for column in range(7):
        share, loss = seen.proportions[:, column], seen.losses_nats[:, column]

        def residuals(
            logs: np.ndarray, share: np.ndarray = share, loss: np.ndarray = loss
        ) -> np.ndarray:
            scale, alpha, beta, floor = np.exp(logs)
            return np.log(share**-alpha * (scale * seen.steps**-beta + floor) / loss)

        least_squares(residuals, np.log([5.0, 0.1, 0.3, 1.0]), loss="soft_l1", f_scale=0.01)


def _median(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    seconds = []
    for _ in range(rounds):
        start = perf_counter()
        work()
        seconds.append(perf_counter() - start)
    return median(seconds)


def main() -> None:
    """Print the medians."""
    for name, (seconds, wanted) in measure().items():
        beside = "" if wanted is None else f" (at most {wanted:g} s)"
        sys.stdout.write(f"{name}: {1000 * seconds:.1f} ms{beside}\n")


if __name__ == "__main__":
    main()
