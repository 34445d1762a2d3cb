"""Milliseconds of one solve: 50 domains with bounds and epoch caps, beside SciPy's SLSQP.

python -m benchmarks.solve_speed
"""

import sys
from statistics import median
from time import perf_counter

import numpy as np
from scipy.optimize import minimize

from mixlab.fitting import Fit, fit
from mixlab.laws import BIMIX
from mixlab.solvers import Constraints, Objective, solve
from tests.synthetic import mixtures, observe

DOMAINS, STEP, ROUNDS = 50, 500, 51


def measure() -> dict[str, float]:
    """Median seconds, and by how much SLSQP's objective is worse in nats."""
    rng = np.random.default_rng(0)
    truth = np.stack(
        [rng.uniform(5, 12, DOMAINS), rng.uniform(0.02, 0.3, DOMAINS),
         rng.uniform(0.2, 0.5, DOMAINS), rng.uniform(0.8, 3, DOMAINS)], axis=1)  # fmt: skip
    found = fit(BIMIX, observe(mixtures(DOMAINS, 12), truth=truth))
    constraints = Constraints(
        lower={name: 0.005 for name in found.domains[:10]},
        budget_tokens=1e9,
        tokens_available={name: 1e7 * (1 + i) for i, name in enumerate(found.domains)},
    )
    ours, theirs = [], []
    for round_number in range(ROUNDS):
        start = perf_counter()
        solution = solve(found, Objective(step=STEP), constraints)
        ours.append(perf_counter() - start)
        if round_number < 5:
            start = perf_counter()
            reference = _slsqp(found, constraints)
            theirs.append(perf_counter() - start)
    return {
        "mixlab solve, 50 domains (seconds)": median(ours),
        "scipy SLSQP with gradients (seconds)": median(theirs),
        "SLSQP's objective minus ours (nats)": reference - solution.objective_nats,
    }


def _slsqp(found: Fit, constraints: Constraints) -> float:
    low, high = constraints.bounds(found.domains)
    assert BIMIX.power_law is not None
    laws = [BIMIX.power_law(target.values, STEP) for target in found.targets.values()]
    coefficient, exponent = np.array(laws).T
    coefficient = coefficient / DOMAINS
    answer = minimize(
        lambda shares: float(np.sum(coefficient * shares**-exponent)),
        low + (high - low) * (1 - low.sum()) / (high - low).sum(),
        jac=lambda shares: -coefficient * exponent * shares ** (-exponent - 1),
        bounds=list(zip(low, high, strict=True)),
        constraints={"type": "eq", "fun": lambda r: r.sum() - 1, "jac": np.ones_like},
        method="SLSQP",
        options={"ftol": 1e-13, "maxiter": 1000},
    )
    return float(answer.fun)


def main() -> None:
    """Print the medians."""
    for name, value in measure().items():
        sys.stdout.write(f"{name}: {value:.3g}\n")


if __name__ == "__main__":
    main()
