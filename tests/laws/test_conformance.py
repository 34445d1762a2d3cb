"""Every law keeps what it says of itself."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mixlab.fitting.problem import Problem
from mixlab.fitting.search import Members, minimise
from mixlab.laws import LAWS, Inputs, Law
from tests.laws.rows import DOMAINS, parameters, plausible, rows

SEEDS = (1, 2, 3)


def laws(claim: Callable[[Law], object] = lambda law: True) -> pytest.MarkDecorator:
    """Laws of which the claim holds, for targets that are a domain and that are none."""
    cases = [
        pytest.param(law, own, id=f"{name}-{'own' if own is not None else 'other'}")
        for name, law in LAWS.items()
        for own in (1, None)
        if claim(law) and (own is not None or not law.needs_own_share)
    ]
    return pytest.mark.parametrize(("law", "own"), cases)


each_law = laws()


def along(law: Law, values: np.ndarray, inputs: Inputs, index: int) -> tuple[np.ndarray, float]:
    """The derivative by one parameter, by differences, and their rounding error."""
    step = np.zeros(len(values))
    step[index] = 1e-6 * max(abs(values[index]), 1e-3)
    above, below = law.predict(values + step, inputs), law.predict(values - step, inputs)
    return (above - below) / (2 * step[index]), 1e-15 * float(above.max()) / step[index]


@each_law
@pytest.mark.parametrize("seed", SEEDS)
def test_the_gradient_is_the_derivative(law: Law, own: int | None, seed: int) -> None:
    inputs = rows(seed, own=own)
    values = plausible(law, inputs, seed)
    found = law.gradient(values, inputs)
    assert found.shape == (len(inputs.steps), len(values))
    for index in range(len(values)):
        expected, rounding = along(law, values, inputs, index)
        close = 1e-6 * float(np.abs(expected).max())
        np.testing.assert_allclose(found[:, index], expected, rtol=1e-4, atol=close + rounding)


@each_law
@pytest.mark.parametrize("seed", SEEDS)
def test_the_share_gradient_is_the_derivative(law: Law, own: int | None, seed: int) -> None:
    inputs = rows(seed, own=own)
    values = plausible(law, inputs, seed)
    found = law.share_gradient(values, inputs)
    for domain in range(len(DOMAINS)):
        step = np.zeros(len(DOMAINS))
        step[domain] = 1e-7
        ends = [replace(inputs, proportions=inputs.proportions + s * step) for s in (1, -1)]
        expected = (law.predict(values, ends[0]) - law.predict(values, ends[1])) / 2e-7
        np.testing.assert_allclose(found[:, domain], expected, rtol=1e-3, atol=1e-5)


@each_law
def test_a_batch_is_its_single_calls(law: Law, own: int | None) -> None:
    inputs = rows(4, own=own, count=5)
    batch = np.array([[plausible(law, inputs, 10 * i + j) for j in range(3)] for i in range(2)])
    for function in (law.predict, law.gradient, law.share_gradient):
        found = function(batch, inputs)
        for i in range(2):
            for j in range(3):
                np.testing.assert_allclose(found[i, j], function(batch[i, j], inputs), rtol=1e-10)


@laws(lambda law: law.convex)
@pytest.mark.parametrize("seed", SEEDS)
def test_it_is_convex_in_the_shares_if_it_says_so(law: Law, own: int | None, seed: int) -> None:
    left, right = rows(seed, own=own), rows(seed + 100, own=own)
    right = replace(left, proportions=right.proportions)
    middle = replace(left, proportions=(left.proportions + right.proportions) / 2)
    values = plausible(law, left, seed)
    mean = (law.predict(values, left) + law.predict(values, right)) / 2
    assert np.all(law.predict(values, middle) <= mean * (1 + 1e-12))


@laws(lambda law: law.falls_with_step)
@pytest.mark.parametrize("seed", SEEDS)
def test_it_never_rises_with_the_step_if_it_says_so(law: Law, own: int | None, seed: int) -> None:
    inputs = rows(seed, own=own)
    values = plausible(law, inputs, seed)
    later = replace(inputs, steps=inputs.steps * 1.7)
    assert np.all(law.predict(values, later) <= law.predict(values, inputs) * (1 + 1e-12))


@each_law
def test_shares_of_0_are_finite_or_not_usable(law: Law, own: int | None) -> None:
    inputs = rows(5, own=own, zeros=True)
    usable = law.usable(inputs)
    if law.zero_shares:
        assert usable.all()
    inside = inputs.take(usable)
    values = plausible(law, inside, 5)
    for function in (law.predict, law.gradient, law.share_gradient):
        assert np.all(np.isfinite(function(values, inside)))
    assert np.all(law.predict(values, inside) > 0)


@each_law
@pytest.mark.parametrize("kind", ["several steps", "one step", "one size", "unknown size"])
def test_starts_are_finite_inside_and_the_same_each_time(
    law: Law, own: int | None, kind: str
) -> None:
    inputs = rows(6, own=own)
    same = np.full(len(inputs.steps), 1e9)
    if kind == "one step":
        inputs = replace(inputs, steps=same)
    if kind == "one size":
        inputs = replace(inputs, params=same)
    if kind == "unknown size":
        inputs = replace(inputs, params=np.nan * same, unique_tokens=np.nan * same)
    losses = 2 + inputs.proportions[:, 0] + 3 * inputs.steps**-0.05
    found = law.starts(inputs, losses)
    lower = np.array([parameter.lower for parameter in parameters(law, own)])
    upper = np.array([parameter.upper for parameter in parameters(law, own)])
    assert found.ndim == 2
    assert found.shape[1] == len(lower)
    assert np.all(np.isfinite(found))
    assert np.all((lower <= found) & (found <= upper))
    np.testing.assert_array_equal(found, law.starts(inputs, losses))
    assert np.all(np.isfinite(law.predict(found, inputs)))


@each_law
def test_domains_are_known_by_name_never_by_position(law: Law, own: int | None) -> None:
    inputs = rows(7, own=own)
    values = plausible(law, inputs, 7)
    named = dict(zip([p.name for p in parameters(law, own)], values, strict=True))
    order = [2, 0, 3, 1]
    moved = None if own is None else order.index(own)
    names = [p.name for p in law.parameters(tuple(DOMAINS[i] for i in order), moved)]
    shuffled = replace(inputs, proportions=inputs.proportions[:, order], own=moved)
    found = law.predict(np.array([named[name] for name in names]), shuffled)
    np.testing.assert_allclose(found, law.predict(values, inputs), rtol=1e-12)


@each_law
def test_parameters_are_well_formed(law: Law, own: int | None) -> None:
    found = parameters(law, own)
    assert len({p.name for p in found}) == len(found)
    for parameter in found:
        assert parameter.lower < parameter.upper
        assert parameter.signed or parameter.lower > 0
        low, high = (
            (parameter.lower, parameter.upper)
            if parameter.signed
            else np.log([parameter.lower, parameter.upper])
        )
        assert not parameter.shrunk or low < parameter.centre < high


@laws(lambda law: law.worth)
def test_what_domains_are_worth_is_relative_to_the_own_one(law: Law, own: int | None) -> None:
    inputs = rows(8, own=own)
    assert law.worth is not None
    found = law.worth(plausible(law, inputs, 8), own)
    assert found.shape == (len(DOMAINS),)
    assert np.all(found > 0)
    assert own is None or found[own] == 1


@laws(lambda law: law.residual != "process")  # whose formulas are other laws'
def test_a_search_from_its_starts_recovers_the_law_of_noiseless_losses(
    law: Law, own: int | None
) -> None:
    # Where parameters trade off, the predictions are what can be recovered.
    inputs, fresh = rows(9, own=own, count=60), rows(10, own=own, count=60)
    truth = plausible(law, inputs, 9)
    problem = Problem(law, parameters(law, own), inputs, law.predict(truth, inputs))
    free = np.ones(len(truth), dtype=bool)
    members = Members.of(law.starts(inputs, problem.losses), scale=0.05, pull=1e-9)
    ends = minimise(problem, free, members, tolerance=1e-6, iterations=150)
    found = ends.values[int(ends.cost.argmin())]
    errors = np.abs(np.log(law.predict(found, fresh) / law.predict(truth, fresh)))
    assert np.median(errors) < 1e-3
