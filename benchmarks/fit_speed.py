"""Seconds of one fit: 7 domains x 660 rows, beside SciPy without the analytic gradient.

python -m benchmarks.fit_speed
"""

import sys
from statistics import median
from time import perf_counter

import numpy as np
from scipy.optimize import least_squares

from mixlab.fitting import fit
from mixlab.laws import BIMIX
from mixlab.runs import Observations
from tests.synthetic import mixtures, observe

MIXTURES, ROUNDS = 60, 7
STEPS = tuple(int(step) for step in np.geomspace(2000, 20_000, 11))


def measure() -> dict[str, float]:
    """Median seconds over all seven domains."""
    seen = observe(mixtures(7, MIXTURES), steps=STEPS, noise=0.005)
    return {
        "mixlab fit, 7 domains x 660 rows": _median(lambda: fit(BIMIX, seen)),
        "scipy curve fits with numerical gradients, one start": _median(lambda: _plain(seen)),
    }


def _plain(seen: Observations) -> None:
    for column in range(7):
        share, loss = seen.proportions[:, column], seen.losses_nats[:, column]

        def residuals(
            logs: np.ndarray, share: np.ndarray = share, loss: np.ndarray = loss
        ) -> np.ndarray:
            scale, alpha, beta, floor = np.exp(logs)
            return np.log(share**-alpha * (scale * seen.steps**-beta + floor) / loss)

        least_squares(residuals, np.log([5.0, 0.1, 0.3, 1.0]), loss="soft_l1", f_scale=0.01)


def _median(work: object) -> float:
    assert callable(work)
    seconds = []
    for _ in range(ROUNDS):
        start = perf_counter()
        work()
        seconds.append(perf_counter() - start)
    return median(seconds)


def main() -> None:
    """Print the medians."""
    for name, seconds in measure().items():
        sys.stdout.write(f"{name}: {1000 * seconds:.1f} ms\n")


if __name__ == "__main__":
    main()
