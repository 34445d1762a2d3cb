"""Milliseconds of one solve, beside SciPy's SLSQP with gradients.

Of power laws of the own share, the exact way: 50 domains with bounds and epoch caps. Of laws in
which every domain helps every other, the general way to a certified gap: 50 domains, each with
its own target, with bounds, caps and a group. And regret: 7 domains, 200 replicates.

python -m benchmarks.solve_speed
"""

import sys
from statistics import median
from time import perf_counter, process_time

import numpy as np
from scipy.optimize import minimize

from mixlab.fitting import Fit, fit
from mixlab.laws import BIMIX
from mixlab.solvers import Constraints, Group, Objective, regret, solve
from tests.solvers.made import transfer_fit
from tests.synthetic import mixtures, observe

DOMAINS, STEP, ROUNDS, GENERAL_ROUNDS = 50, 500, 51, 15


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


def measure_general() -> dict[str, float]:
    """Median seconds of the general way, wall and processor, and its certified gap in nats."""
    found = transfer_fit(DOMAINS, seed=1)
    constraints = Constraints(
        lower={name: 0.005 for name in found.domains[:10]},
        budget_tokens=1e9,
        tokens_available={name: 1e7 * (1 + i) for i, name in enumerate(found.domains)},
        groups={"some": Group(found.domains[5:15], lower=0.15, upper=0.4)},
    )
    ours, busy = [], []
    for _ in range(GENERAL_ROUNDS):
        start, used = perf_counter(), process_time()
        solution = solve(found, Objective(step=STEP), constraints)
        ours.append(perf_counter() - start)
        busy.append(process_time() - used)
    start = perf_counter()
    reference = _general_slsqp(found, constraints)
    return {
        "mixlab general solve, 50 domains x 50 targets (seconds)": median(ours),
        "the same, processor time (seconds)": median(busy),
        "certified gap (nats)": solution.gap_nats or 0.0,
        "scipy SLSQP with gradients on the same (seconds)": perf_counter() - start,
        "SLSQP's objective minus ours on the same (nats)": reference - solution.objective_nats,
    }


def _general_slsqp(found: Fit, constraints: Constraints) -> float:
    low, high = constraints.bounds(found.domains)
    surface, some = found.surface(STEP), np.zeros(DOMAINS)
    some[5:15] = 1.0
    answer = minimize(
        lambda shares: float(surface.losses(shares[None, :]).mean()),
        low + (high - low) * (1 - low.sum()) / (high - low).sum(),
        jac=lambda shares: surface.gradients(shares).mean(axis=0),
        bounds=list(zip(low, high, strict=True)),
        constraints=[
            {"type": "eq", "fun": lambda r: r.sum() - 1, "jac": np.ones_like},
            {"type": "ineq", "fun": lambda r: r @ some - 0.15, "jac": lambda r: some},
            {"type": "ineq", "fun": lambda r: 0.4 - r @ some, "jac": lambda r: -some},
        ],
        method="SLSQP",
        options={"ftol": 1e-10, "maxiter": 1000},
    )
    return float(answer.fun)


def measure_regret() -> dict[str, float]:
    """Seconds of optimism, regret and region from 200 replicates of 7 domains."""
    found = transfer_fit(7, replicates=200)
    solution = solve(found, Objective(step=STEP))
    start = perf_counter()
    regret(found, Objective(step=STEP), None, solution)
    return {"regret, 7 domains x 200 replicates (seconds)": perf_counter() - start}


def main() -> None:
    """Print the medians."""
    for found in (measure(), measure_general(), measure_regret()):
        for name, value in found.items():
            sys.stdout.write(f"{name}: {value:.3g}\n")


if __name__ == "__main__":
    main()
