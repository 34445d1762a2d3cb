"""The batched search ends where SciPy's does, for every member, weight, penalty and loss."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from mixlab.fitting.problem import Problem
from mixlab.fitting.search import Members, Robust, minimise
from mixlab.laws import BIMIX, LAWS, Inputs
from tests.synthetic import TRUTH, mixtures, observe

TRANSFER = LAWS["bimix_transfer"]


def problem(law: object = BIMIX, seed: int = 0, noise: float = 0.01) -> Problem:
    seen = observe(mixtures(4, 12), noise=noise, seed=seed)
    inputs = Inputs(seen.proportions, seen.steps, 0, seen.params, seen.unique_tokens)
    parameters = law.parameters(seen.domains, 0)
    return Problem(law, parameters, inputs, seen.losses_nats[:, 0])


def values_of(found: Problem, z: np.ndarray) -> np.ndarray:
    return np.where(found.signed, z, np.exp(np.where(found.signed, 0.0, z)))


def reference(
    found: Problem, start: np.ndarray, weights: np.ndarray, scale: float, pull: float, loss: str
) -> tuple[float, np.ndarray]:
    """Cost and values by SciPy's trust region; rows are repeated as often as they weigh."""
    rows = np.repeat(np.arange(len(weights)), weights.astype(int))
    again = Problem(found.law, found.parameters, _taken(found.inputs, rows), found.losses[rows])

    def residuals(z: np.ndarray) -> np.ndarray:
        return again.residuals(values_of(again, z))

    def rho(s: np.ndarray) -> np.ndarray:  # penalties are squares, whatever the rows' loss is
        one = {
            "soft_l1": (2 * (np.sqrt(1 + s) - 1), (1 + s) ** -0.5, -0.5 * (1 + s) ** -1.5),
            "student": (np.log1p(s), 1 / (1 + s), -1 / (1 + s) ** 2),
        }[loss]
        answer = np.array(one)
        answer[:, len(rows) :] = [s[len(rows) :], np.ones(size), np.zeros(size)]
        return answer

    size = len(found.parameters)
    away = np.sqrt(pull * found.precision)
    lower, upper = found.bounds
    answer = least_squares(
        lambda z: np.concatenate([residuals(z), away * (z - found.centre)]),
        found.z_of(start), bounds=(lower, upper), loss=rho, f_scale=scale, x_scale="jac",
        ftol=1e-14, xtol=1e-14, gtol=1e-14, max_nfev=4000,
    )  # fmt: skip
    return float(answer.cost), values_of(found, answer.x)


def _taken(inputs: Inputs, rows: np.ndarray) -> Inputs:
    columns = (inputs.params[rows], inputs.unique_tokens[rows])
    return Inputs(inputs.proportions[rows], inputs.steps[rows], inputs.own, *columns)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 50), st.sampled_from(["soft_l1", "student"]), st.floats(0.005, 0.1))
def test_every_member_of_a_batch_ends_where_scipy_does(seed: int, loss: str, scale: float) -> None:
    found = problem(seed=seed)
    rng = np.random.default_rng(seed)
    weights = rng.integers(0, 3, size=(3, len(found.losses))).astype(float)
    starts = np.repeat(BIMIX.starts(found.inputs, found.losses)[:1], 3, axis=0)
    free = np.ones(4, dtype=bool)
    members = Members(starts, weights, np.zeros(3), np.array([scale, 2 * scale, 3 * scale]))
    ends = minimise(found, free, members, robust=Robust(loss))
    assert ends.converged.all()
    for member in range(3):
        cost, _ = reference(found, starts[member], weights[member], members.scale[member], 0, loss)
        assert ends.cost[member] <= cost * (1 + 1e-7)


def test_penalised_members_end_where_scipy_does() -> None:
    found = problem(TRANSFER)
    starts = TRANSFER.starts(found.inputs, found.losses)[:1]
    pulls = np.array([1.0, 1e-2, 1e-4])
    members = Members(np.repeat(starts, 3, axis=0), None, pulls, np.full(3, 0.05))
    ends = minimise(found, np.ones(starts.shape[1], dtype=bool), members)
    ones = np.ones(len(found.losses))
    for member, pull in enumerate(pulls):
        cost, values = reference(found, starts[0], ones, 0.05, pull, "soft_l1")
        assert ends.cost[member] == pytest.approx(cost, rel=1e-6)
        expected = found.law.predict(values, found.inputs)
        predicted = found.law.predict(ends.values[member], found.inputs)
        np.testing.assert_allclose(predicted, expected, rtol=1e-4)


def test_a_member_fares_the_same_alone_and_in_a_batch() -> None:
    found = problem(TRANSFER)
    starts = TRANSFER.starts(found.inputs, found.losses)
    free = np.ones(starts.shape[1], dtype=bool)
    together = minimise(found, free, Members.of(starts, scale=0.02, pull=1e-3))
    for index, start in enumerate(starts):
        alone = minimise(found, free, Members.of(start[None, :], scale=0.02, pull=1e-3))
        np.testing.assert_allclose(together.values[index], alone.values[0], rtol=1e-6)


def test_parameters_that_are_not_free_keep_their_values() -> None:
    found = problem()
    start = np.array([[7.0, 0.1, 0.3, 0.0]])
    free = np.array([True, True, True, False])
    ends = minimise(found, free, Members.of(start, scale=0.05))
    assert ends.values[0, 3] == 0
    nothing = minimise(found, ~np.ones(4, dtype=bool), Members.of(start, scale=0.05))
    np.testing.assert_array_equal(nothing.values, start)


def test_a_search_from_far_off_comes_back() -> None:
    found = problem(noise=0.0)
    starts = TRUTH * np.exp(np.random.default_rng(0).normal(0, 0.7, size=(20, 4)))
    ends = minimise(found, np.ones(4, dtype=bool), Members.of(starts, scale=0.05))
    np.testing.assert_allclose(ends.values, np.tile(TRUTH, (20, 1)), rtol=1e-5)


def test_huber_counts_strays_linearly_and_ends_at_a_minimum() -> None:
    found = problem(noise=0.02)
    starts = BIMIX.starts(found.inputs, found.losses)[:1]
    free, robust = np.ones(4, dtype=bool), Robust("huber", 1e-3)
    ends = minimise(found, free, Members.of(starts, scale=1e-3), robust=robust)

    def cost(values: np.ndarray) -> float:
        miss = np.abs(found.residuals(values))
        return float(np.sum(np.where(miss < 1e-3, miss**2 / 2, 1e-3 * (miss - 5e-4))))

    assert ends.cost[0] == pytest.approx(cost(ends.values[0]), rel=1e-9)
    rng = np.random.default_rng(0)
    for size in (1e-2, 1e-3, 1e-4):
        for _ in range(50):
            near = ends.values[0] * np.exp(size * rng.normal(size=4))
            assert cost(near) >= ends.cost[0] * (1 - 1e-6)
