"""A price is what loosening the constraint a little gains, found by solving again."""

from dataclasses import replace
from typing import Any

import pytest

from mixlab.mixture import Mixture
from mixlab.solvers import Constraints, Group, Linear, Near, Objective, Repetition, solve
from tests.solvers.made import transfer_fit

FIT = transfer_fit(4, seed=2)
AT = Objective(500)
TOKENS = {"d0": 1e8, "d1": 2e8, "d2": 1e9, "d3": 4e9}
BUDGET: dict[str, Any] = {"budget_tokens": 2e9, "tokens_available": TOKENS}
LITTLE = 1e-4


def gain(tight: Constraints, loose: Constraints, objective: Objective = AT) -> float:
    before, after = solve(FIT, objective, tight), solve(FIT, objective, loose)
    return before.objective_nats - after.objective_nats


REFERENCE = Mixture({"d0": 0.1, "d1": 0.2, "d2": 0.3, "d3": 0.4})
CASES: list[tuple[str, str, Constraints, Constraints, float]] = [
    ("d2", "lower", Constraints(lower={"d2": 0.6}),
     Constraints(lower={"d2": 0.6 - LITTLE}), LITTLE),
    ("d3", "upper", Constraints(upper={"d3": 0.1}),
     Constraints(upper={"d3": 0.1 + LITTLE}), LITTLE),
    ("g", "group_lower", Constraints(groups={"g": Group(["d1", "d2"], lower=0.8)}),
     Constraints(groups={"g": Group(["d1", "d2"], lower=0.8 - LITTLE)}), LITTLE),
    ("g", "group_upper", Constraints(groups={"g": Group(["d0", "d3"], upper=0.3)}),
     Constraints(groups={"g": Group(["d0", "d3"], upper=0.3 + LITTLE)}), LITTLE),
    ("l", "linear_lower", Constraints(linear=[Linear({"d1": 2, "d3": -1}, lower=0.9, name="l")]),
     Constraints(linear=[Linear({"d1": 2, "d3": -1}, lower=0.9 - LITTLE, name="l")]), LITTLE),
    ("reference", "near", Constraints(near=Near(REFERENCE, 0.02)),
     Constraints(near=Near(REFERENCE, 0.02 + LITTLE)), LITTLE),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["mean", "worst"])
@pytest.mark.parametrize(("name", "bound", "tight", "loose", "by"), CASES)
def test_prices_are_what_loosening_gains(
    name: str, bound: str, tight: Constraints, loose: Constraints, by: float, kind: Any
) -> None:
    objective = Objective(500, kind=kind)
    found = {(one.domain, one.bound): one for one in solve(FIT, objective, tight).active}
    gained = gain(tight, loose, objective) / by
    if gained < 1e-6:
        return  # this objective is not held by it
    assert found[name, bound].price_nats == pytest.approx(gained, rel=5e-3)


def test_tokens_and_epochs_of_a_capped_domain_are_priced_in_words() -> None:
    limits = Constraints(**BUDGET, max_epochs=1.5)
    found = solve(FIT, AT, limits)
    prices = {price.change: price for price in found.prices}
    name = next(one.domain for one in found.active if one.bound == "epochs")
    million = prices[f"one more million tokens of {name}" if TOKENS[name] < 1e9
                     else f"one more billion tokens of {name}"]  # fmt: skip
    more = replace(limits, tokens_available={**TOKENS, name: TOKENS[name] + 1e4})
    assert million.nats / million.amount * 1e4 == pytest.approx(gain(limits, more), rel=1e-2)
    epoch = prices[f"one more epoch of {name}"]
    longer = replace(limits, upper={}, max_epochs=1.5 + 1e-4)
    held = sum(price.nats for price in found.prices if price.change.startswith("one more epoch"))
    assert held * 1e-4 == pytest.approx(gain(limits, longer), rel=1e-2)
    assert epoch.statement == f"one more epoch of {name} is worth at most {epoch.nats:.3g} nats"
    # At most: a whole epoch more gains less than at the margin.
    assert gain(limits, replace(limits, max_epochs=2.5)) <= held + 1e-9


def test_more_tokens_of_a_repeated_domain_are_worth_what_the_discount_says() -> None:
    limits = Constraints(**BUDGET, repetition=Repetition(5.0))
    found = solve(FIT, AT, limits)
    price = next(one for one in found.prices if "tokens of" in one.change)
    name = price.domain
    more = replace(limits, tokens_available={**TOKENS, name: TOKENS[name] + 1e5})
    assert found.epochs is not None
    assert found.epochs[name] > 1
    assert price.nats / price.amount * 1e5 == pytest.approx(gain(limits, more), rel=1e-2)


def test_a_floor_is_priced_per_hundredth_of_share() -> None:
    limits = Constraints(lower={"d2": 0.6})
    price = solve(FIT, AT, limits).prices[0]
    assert (price.domain, price.amount) == ("d2", 0.01)
    assert price.statement.startswith("a floor of d2 lower by 0.01 is worth at most")
    gained = gain(limits, Constraints(lower={"d2": 0.59}))
    assert gained <= price.nats + 1e-9
    assert gained == pytest.approx(price.nats, rel=0.1)
