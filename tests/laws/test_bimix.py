"""BiMix as the paper writes it, its derivatives, and the registry of laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixlab.errors import UnknownLaw
from mixlab.laws import BIMIX, LAWS, Inputs, law

VALUES = st.tuples(
    st.floats(0.5, 100), st.floats(0.01, 1.0), st.floats(0.05, 1.5), st.floats(0.1, 5)
).map(np.array)


def inputs(shares: list[float], steps: list[float]) -> Inputs:
    own = np.array(shares)
    unknown = np.full(len(own), np.nan)
    return Inputs(np.stack([own, 1 - own], axis=1), np.array(steps), 0, unknown, unknown)


@given(VALUES)
def test_predict_is_the_papers_equation_in_the_gauge_b_1(values: np.ndarray) -> None:
    form = BIMIX.source_form(values)
    share, step = np.array([0.02, 0.3, 0.9]), np.array([10.0, 200.0, 1e5])
    paper = form["A"] / share ** form["alpha"] * (form["B"] / step ** form["beta"] + form["C"])
    found = BIMIX.predict(values, inputs(share.tolist(), step.tolist()))
    np.testing.assert_allclose(found, paper, rtol=1e-12)
    assert form["B"] == 1.0


@given(VALUES)
def test_gradient_is_the_derivative_of_predict(values: np.ndarray) -> None:
    where = inputs([0.02, 0.3, 0.9], [10.0, 200.0, 5000.0])
    for index in range(4):
        step = np.zeros(4)
        step[index] = 1e-6 * values[index]
        around = BIMIX.predict(values + step, where) - BIMIX.predict(values - step, where)
        found = BIMIX.gradient(values, where)[:, index]
        np.testing.assert_allclose(found, around / (2 * step[index]), rtol=1e-5, atol=1e-9)


@given(VALUES, st.floats(1, 1e6))
def test_at_a_fixed_step_it_is_a_power_of_the_share(values: np.ndarray, step: float) -> None:
    assert BIMIX.power_law is not None
    coefficient, exponent = BIMIX.power_law(values, step)
    expected = BIMIX.predict(values, inputs([0.07, 0.4], [step, step]))
    np.testing.assert_allclose(coefficient * np.array([0.07, 0.4]) ** -exponent, expected)


def test_a_share_of_0_is_not_usable() -> None:
    assert BIMIX.usable(inputs([0.0, 0.5], [10, 10])).tolist() == [False, True]


def test_laws_are_found_by_name() -> None:
    assert law("bimix") is BIMIX is LAWS["bimix"]
    with pytest.raises(UnknownLaw, match="bimix"):
        law("bimox")
