"""Constraints that tie domains together: refused with names where they can't hold, and kept."""

import math
from typing import Any

import numpy as np
import pytest

from mixlab.errors import InfeasibleConstraints, InvalidBudget
from mixlab.laws import LAWS
from mixlab.mixture import Mixture
from mixlab.solvers import Constraints, Group, Linear, Near, Objective, Repetition, solve
from mixlab.solvers.problem import problem
from mixlab.solvers.repetition import Discounted
from mixlab.solvers.sampling import samples
from tests.solvers.made import made, target, transfer_fit

FIT = transfer_fit(4)
NAMES = FIT.domains
UNIFORM = Mixture.uniform(NAMES)

CONFLICTS: list[tuple[dict[str, Any], str]] = [
    (
        {"groups": {"g": Group(["d0", "d1"], lower=0.6)}, "lower": {"d2": 0.5}},
        r"contradict each other: .*d2 at least 0.5.*group g at least 0.6.*Loosen them by 0.1",
    ),
    (
        {"groups": {"g": Group(["d0", "d1"], upper=0.2)}, "upper": {"d2": 0.3, "d3": 0.3}},
        r"d2 at most 0.3 \(upper bound\); d3 at most 0.3 \(upper bound\); group g at most 0.2",
    ),
    (
        {
            "groups": {"g": Group(["d0", "d1"], lower=0.5)},
            "budget_tokens": 1e9,
            "tokens_available": {"d0": 5e7, "d1": 5e7},
        },
        r"d0 at most 0.2 \(4 epochs of 50,000,000 tokens.*group g at least 0.5",
    ),
    (
        {
            "linear": [Linear({"d0": 1, "d1": 1}, lower=0.9, name="sum")],
            "upper": {"d0": 0.3, "d1": 0.3},
        },
        r"d0 at most 0.3.*sum at least 0.9",
    ),
    (
        {"near": Near(UNIFORM, 0.01), "lower": {"d0": 0.6}},
        r"is 0.2\d+ nats from the reference mixture, and 0.01 are allowed; held off by: d0 at",
    ),
    (
        {"near": Near(Mixture({"d0": 0.5, "d1": 0.5, "d2": 0.0}), 0.1), "lower": {"d2": 0.1}},
        r"d2 at least 0.1 but d2 at most 0 \(the reference mixture has none of it\)",
    ),
    ({"groups": {"g": Group(["d0", "d9"])}}, r"group 'g' names no known domain: 'd9'"),
    ({"linear": [Linear({"d9": 1}, upper=1)]}, r"names no known domain: 'd9'"),
    ({"near": Near(Mixture({"d9": 1.0}), 1)}, r"near names no known domain: 'd9'"),
    ({"groups": {"d0": Group(["d0"])}}, "names of their own"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "message"), CONFLICTS)
def test_conflicts_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InfeasibleConstraints, match=message):
        solve(FIT, Objective(500), Constraints(**given))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Group([]),
        lambda: Group("code"),
        lambda: Group(["a", "a"]),
        lambda: Group(["a"], lower=-0.1),
        lambda: Group(["a"], upper=math.nan),
        lambda: Linear({}),
        lambda: Linear({"a": 0.0}, upper=1),
        lambda: Linear({"a": math.inf}, upper=1),
        lambda: Linear({"a": 1}),
        lambda: Linear({"a": 1}, upper=math.nan),
        lambda: Linear({"a": 1}, lower=math.inf),
        lambda: Near(UNIFORM, 0),
        lambda: Near(UNIFORM, math.nan),
        lambda: Repetition(0),
        lambda: Repetition(math.inf),
    ],
)
def test_constraints_that_say_nothing_can_not_be_made(make: Any) -> None:
    with pytest.raises(InfeasibleConstraints):
        make()


def test_repeats_need_a_budget_and_tokens() -> None:
    with pytest.raises(InvalidBudget, match="budget_tokens and tokens_available"):
        Constraints(repetition=Repetition(), budget_tokens=1e9)
    with pytest.raises(InvalidBudget, match="at least 1 token"):
        Constraints(sequence_tokens=0)


def test_every_domain_keeps_a_sequence_of_the_budget_by_default() -> None:
    low, _ = Constraints(budget_tokens=2048 * 100).bounds(NAMES)
    np.testing.assert_allclose(low, 0.01)
    scarce = {"d0": 3000.0, "d1": 1e9}
    low, high = Constraints(budget_tokens=2048 * 1000, tokens_available=scarce).bounds(NAMES)
    assert low[0] * 2048 * 1000 >= 2048
    assert low[0] <= high[0]
    shut, _ = Constraints(budget_tokens=2048 * 100, upper={"d0": 0.0}).bounds(NAMES)
    assert shut[0] == 0
    tiny, _ = Constraints(budget_tokens=2048).bounds(NAMES)  # less than one each
    assert 0 < tiny.sum() < 1


def test_a_repeat_counts_for_less_and_the_first_reading_in_full() -> None:
    surface = FIT.surface(500)
    unique = np.array([0.1, 0.2, np.inf, 0.05])
    discounted = Discounted(surface, unique, 15.39)
    shares = np.array([0.1, 0.3, 0.4, 0.2])
    effective = discounted.effective(shares)
    np.testing.assert_allclose(effective[[0, 2]], [0.1, 0.4], rtol=1e-15)
    # Muennighoff et al., eq. 5: U + U R (1 - exp(-repeats / R)), with 0.5 and 3 repeats.
    assert effective[1] == pytest.approx(0.2 + 0.2 * 15.39 * (1 - np.exp(-0.5 / 15.39)))
    assert effective[3] == pytest.approx(0.05 + 0.05 * 15.39 * (1 - np.exp(-3 / 15.39)))
    for index in range(4):
        moved = shares.copy()
        moved[index] += 1e-7
        slope = (discounted.losses(moved[None])[0] - discounted.losses(shares[None])[0]) / 1e-7
        np.testing.assert_allclose(discounted.gradients(shares)[:, index], slope, rtol=1e-4)


def test_the_discount_lets_a_scarce_domain_repeat_where_a_cap_would_not() -> None:
    tokens = {"d0": 2e7, "d1": 1e10, "d2": 1e10, "d3": 1e10}
    given: dict[str, Any] = {"budget_tokens": 1e9, "tokens_available": tokens}
    weights = {"d0": 1.0}
    capped = solve(FIT, Objective(500, weights=weights), Constraints(**given))
    free = solve(FIT, Objective(500, weights=weights), Constraints(**given, max_epochs=None))
    discounted = solve(
        FIT, Objective(500, weights=weights), Constraints(**given, repetition=Repetition())
    )
    share = [one.mixture.proportions["d0"] for one in (capped, discounted, free)]
    assert share == sorted(share)
    assert share[0] == pytest.approx(0.08)
    assert share[1] > 0.081
    assert discounted.objective_nats > free.objective_nats


def test_drawn_mixtures_obey_and_are_the_same_again() -> None:
    limits = Constraints(
        groups={"g": Group(["d0", "d1"], 0.4, 0.5)}, near=Near(UNIFORM, 0.1), lower={"d3": 0.1}
    )
    found = problem(FIT, [Objective(500)], limits)
    drawn = samples(found.region, found.start, 300, seed=1)
    assert found.region.holds(drawn, 1e-9).all()
    np.testing.assert_array_equal(drawn, samples(found.region, found.start, 300, seed=1))
    assert np.ptp(drawn[:, 0]) > 0.1


def test_free_draws_are_even() -> None:
    found = problem(FIT, [Objective(500)], Constraints(lower=dict.fromkeys(NAMES, 0.0)))
    drawn = samples(found.region, found.start, 4000, seed=0)
    # Dirichlet(1, 1, 1, 1): mean 1/4, variance 3/80.
    np.testing.assert_allclose(drawn.mean(axis=0), 0.25, atol=0.015)
    np.testing.assert_allclose(drawn.var(axis=0), 3 / 80, rtol=0.1)


@pytest.mark.parametrize(("slope", "convex"), [(-0.5, True), (0.5, False)])
def test_a_loss_that_rises_with_a_share_is_not_convex_under_the_discount(
    slope: float, convex: bool
) -> None:
    law = LAWS["exponential"]
    values = np.array([1.0, 3.0, 0.1, -1.0, -0.8, slope])
    fit = made({"d0": target("d0", law, NAMES[:3], values)}, NAMES[:3])
    given: dict[str, Any] = {"budget_tokens": 1e9, "tokens_available": {"d2": 1e8}}
    assert problem(fit, [Objective(500)], Constraints(**given, max_epochs=None)).convex
    repeats = Constraints(**given, repetition=Repetition())
    assert problem(fit, [Objective(500)], repeats).convex is convex
