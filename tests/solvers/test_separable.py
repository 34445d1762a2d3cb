"""The root agrees with general solvers, and with the conditions of optimality."""

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from mixlab.solvers.separable import split


@st.composite
def problems(
    draw: st.DrawFn, steepest: float = 1.5
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Coefficients, exponents and feasible bounds of 2 to 8 domains; some flat."""
    size = draw(st.integers(2, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    coefficient = np.exp(rng.uniform(np.log(0.02), np.log(10), size)) / size
    exponent = np.exp(rng.uniform(np.log(0.01), np.log(steepest), size))
    flat = rng.random(size) < draw(st.sampled_from([0.0, 0.0, 0.3]))
    coefficient[flat] = 0
    low = rng.uniform(0.002, 1 / size, size) * draw(st.sampled_from([0.1, 0.6, 0.99]))
    high = np.minimum(1, low + rng.uniform(0, 2.5 / size, size))
    assume(high.sum() >= 1)
    return coefficient, exponent, low, high


def objective(coefficient: np.ndarray, exponent: np.ndarray, shares: np.ndarray) -> float:
    return float(np.sum(coefficient * shares**-exponent))


def by_slsqp(
    coefficient: np.ndarray, exponent: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """SciPy's answer, started again from where it stops: on stiff problems it stops too early."""
    shares = low + (high - low) * (1 - low.sum()) / (high - low).sum()
    for _ in range(20):
        found = minimize(
            lambda r: objective(coefficient, exponent, np.clip(r, low, high)),
            shares,
            jac=lambda r: -coefficient * exponent * np.clip(r, low, high) ** (-exponent - 1),
            bounds=list(zip(low, high, strict=True)),
            constraints={"type": "eq", "fun": lambda r: r.sum() - 1, "jac": np.ones_like},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        before = objective(coefficient, exponent, shares)
        shares = np.clip(found.x, low, high)
        if before - objective(coefficient, exponent, shares) < 1e-13:
            break
    return shares


# The same examples every time, since what may fail is the reference.
@settings(max_examples=150, deadline=None, derandomize=True)
# Of losses as they are: beyond, SLSQP stops short of its own tolerance.
@given(problems(steepest=0.5))
def test_a_general_solver_finds_the_same_objective(
    problem: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
) -> None:
    coefficient, exponent, low, high = problem
    found = split(coefficient * exponent, exponent, low, high)
    assert abs(found.shares.sum() - 1) < 1e-12
    assert np.all((found.shares >= low - 1e-15) & (found.shares <= high + 1e-15))
    ours = objective(coefficient, exponent, found.shares)
    shares = by_slsqp(coefficient, exponent, low, high)
    # SLSQP may leave the simplex by its tolerance, which the multiplier turns into nats.
    slack = 1e-8 + 2 * found.multiplier * abs(shares.sum() - 1)
    assert abs(ours - objective(coefficient, exponent, shares)) <= slack


@settings(max_examples=300, deadline=None)
@given(problems())
def test_one_multiplier_serves_all_free_domains(
    problem: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
) -> None:
    coefficient, exponent, low, high = problem
    found = split(coefficient * exponent, exponent, low, high)
    slope = coefficient * exponent * found.shares ** (-exponent - 1)
    at_low, at_high = found.shares <= low, found.shares >= high
    free = ~at_low & ~at_high
    if found.unique:
        np.testing.assert_allclose(slope[free], found.multiplier, rtol=1e-8)
        assert np.all(slope[at_low & ~at_high] <= found.multiplier * (1 + 1e-8))
        assert np.all(slope[at_high & ~at_low] >= found.multiplier * (1 - 1e-8))
    else:
        assert found.multiplier == 0
        assert np.all(coefficient[~at_high] == 0)


def test_all_domains_at_their_bounds() -> None:
    low, high = np.array([0.2, 0.3, 0.1]), np.array([0.5, 0.6, 0.5])
    pull, exponent = np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.2, 0.3])
    np.testing.assert_allclose(split(pull, exponent, low, np.array([0.2, 0.3, 0.5])).shares,
                               [0.2, 0.3, 0.5], rtol=1e-14)  # fmt: skip
    np.testing.assert_allclose(split(pull, exponent, np.array([0.2, 0.3, 0.5]), high).shares,
                               [0.2, 0.3, 0.5], rtol=1e-14)  # fmt: skip


def test_flat_domains_get_their_least_unless_the_others_are_capped() -> None:
    pull, exponent = np.array([1.0, 0.0, 0.0]), np.array([0.2, 0.0, 0.0])
    low = np.array([0.01, 0.05, 0.02])
    np.testing.assert_allclose(split(pull, exponent, low, np.ones(3)).shares, [0.93, 0.05, 0.02])
    capped = split(pull, exponent, low, np.array([0.5, 1.0, 0.1]))
    assert (capped.unique, capped.multiplier, capped.shares[0]) == (False, 0.0, 0.5)
    assert abs(capped.shares.sum() - 1) < 1e-15


def test_equal_domains_get_equal_shares_over_twelve_orders_of_magnitude() -> None:
    for pull in (1e-9, 1.0, 1e3):
        found = split(np.full(7, pull), np.full(7, 0.05), np.full(7, 1e-4), np.ones(7))
        np.testing.assert_allclose(found.shares, 1 / 7, rtol=1e-13)


def test_a_lower_bound_of_0_is_no_trouble() -> None:
    pull, exponent = np.array([1.0, 2.0, 0.5]), np.array([0.1, 0.2, 0.3])
    found = split(pull, exponent, np.zeros(3), np.ones(3))
    np.testing.assert_allclose(pull * found.shares ** (-exponent - 1), found.multiplier, rtol=1e-12)
