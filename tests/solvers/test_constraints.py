"""Bounds in numbers, and conflicts named in words."""

import math
from typing import Any

import numpy as np
import pytest

from mixlab.errors import InfeasibleConstraints, InvalidBudget
from mixlab.solvers import DEFAULT_LOWER, Constraints

DOMAINS = ("code", "law", "web")


def test_bounds_are_what_was_asked_for_and_a_small_default() -> None:
    low, high = Constraints(lower={"law": 0.2}, upper={"web": 0.5}).bounds(DOMAINS)
    np.testing.assert_allclose(low, [DEFAULT_LOWER, 0.2, DEFAULT_LOWER])
    np.testing.assert_allclose(high, [1, 1, 0.5])


def test_epochs_cap_the_share() -> None:
    tokens = {"code": 1e6, "law": 10e6, "web": 100e6}
    given = Constraints(budget_tokens=20e6, tokens_available=tokens)
    np.testing.assert_allclose(given.bounds(DOMAINS)[1], [0.2, 1, 1])
    free = Constraints(budget_tokens=20e6, tokens_available=tokens, max_epochs=None)
    np.testing.assert_allclose(free.bounds(DOMAINS)[1], [1, 1, 1])


def test_a_default_lower_bound_gives_way_to_a_cap() -> None:
    given = Constraints(budget_tokens=1e9, tokens_available={"code": 1e4})
    low, high = given.bounds(DOMAINS)
    assert low[0] == high[0] == pytest.approx(4e-5)


def test_many_domains_keep_room_above_the_default() -> None:
    low, _ = Constraints().bounds([f"d{i}" for i in range(5000)])
    assert low.sum() == pytest.approx(0.1)


CONFLICTS: list[tuple[dict[str, Any], str]] = [
    (
        {"lower": {"code": 0.6, "law": 0.5}},
        r"ask for 1.1 in all.*: code at least 0.6, law at least 0.5\.",
    ),
    ({"upper": dict.fromkeys(DOMAINS, 0.3)}, r"allow 0.9 in all.*code at most 0.3 \(upper bound\)"),
    (
        {
            "budget_tokens": 24e6,
            "tokens_available": {"code": 1.2e6, "law": 1.2e6},
            "upper": {"web": 0.43},
        },
        r"allow 0.83 in all.*code at most 0.2 \(4 epochs of 1,200,000 tokens in a budget of "
        r"24,000,000\).*web at most 0.43 \(upper bound\)",
    ),
    (
        {"lower": {"code": 0.5}, "budget_tokens": 24e6, "tokens_available": {"code": 1.2e6}},
        r"code at least 0.5 but code at most 0.2 \(4 epochs",
    ),
    ({"lower": {"law": 0.5}, "upper": {"law": 0.4}}, r"law at least 0.5 but law at most 0.4"),
    ({"lower": {"poems": 0.1}}, r"'poems'; the domains are code, law, web"),
    ({"upper": {"poems": 0.1}}, r"upper names no known domain"),
    ({"budget_tokens": 1e6, "tokens_available": {"poems": 5}}, r"tokens_available names no"),
]


@pytest.mark.parametrize(("given", "message"), CONFLICTS)
def test_conflicts_are_named_with_their_numbers(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InfeasibleConstraints, match=message):
        Constraints(**given).bounds(DOMAINS)


@pytest.mark.parametrize("share", [-0.1, 1.5, math.nan, math.inf])
@pytest.mark.parametrize("side", ["lower", "upper"])
def test_a_bound_that_is_no_share_is_an_error(side: str, share: float) -> None:
    with pytest.raises(InfeasibleConstraints, match="'code'"):
        Constraints(**{side: {"code": share}})


@pytest.mark.parametrize(
    "given",
    [
        {"budget_tokens": -5},
        {"budget_tokens": math.nan},
        {"tokens_available": {"code": 5.0}},
    ],
)
def test_a_budget_that_is_none_is_an_error(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidBudget):
        Constraints(**given)


@pytest.mark.parametrize("given", [{"max_epochs": 0}, {"tokens_available": {"code": 0}}])
def test_epochs_and_tokens_are_above_0(given: dict[str, Any]) -> None:
    with pytest.raises(InfeasibleConstraints, match="above 0"):
        Constraints(budget_tokens=10, **given)
