"""From a fit to a solution: objective, constraints, prices, notes and refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mixlab.errors import (
    InfeasibleConstraints,
    InvalidBudget,
    InvalidMixture,
    InvalidTable,
    TooFewMixtures,
)
from mixlab.fitting import Fit, FitStatus, fit
from mixlab.laws import BIMIX
from mixlab.mixture import Mixture
from mixlab.solvers import Constraints, Objective, SolutionStatus, solve
from tests.solvers.made import transfer_fit
from tests.synthetic import mixtures, observe

TRUTHS = np.array(
    [[8.0, 0.05, 0.35, 1.9], [12.0, 0.20, 0.3, 1.2], [6.0, 0.10, 0.4, 2.5], [9.0, 0.3, 0.35, 0.9]]
)


@pytest.fixture(scope="module")
def fitted() -> Fit:
    return fit(BIMIX, observe(mixtures(4, 12), truth=TRUTHS))


def mean_loss(fitted: Fit, mixture: Mixture, step: float) -> float:
    return float(np.mean(list(fitted.predict(mixture, step).values())))


def test_no_mixture_nearby_or_observed_is_predicted_to_be_better(fitted: Fit) -> None:
    found = solve(fitted, Objective(step=500))
    assert found.status is SolutionStatus.OPTIMAL
    assert found.objective_nats == pytest.approx(mean_loss(fitted, found.mixture, 500), rel=1e-12)
    assert found.predicted_nats == pytest.approx(fitted.predict(found.mixture, 500), rel=1e-12)
    rng = np.random.default_rng(0)
    for shares in [*mixtures(4, 12), *found.mixture.shares() * rng.uniform(0.9, 1.1, (50, 4))]:
        other = Mixture.of(fitted.domains, shares)
        assert mean_loss(fitted, other, 500) >= found.objective_nats


def test_the_multiplier_is_what_a_share_is_worth(fitted: Fit) -> None:
    loose = solve(fitted, Objective(step=500))
    pinned = loose.mixture.proportions["d1"] + 0.05
    found = solve(fitted, Objective(step=500), Constraints(lower={"d1": pinned}))
    more = solve(fitted, Objective(step=500), Constraints(lower={"d1": pinned + 1e-6}))
    (active,) = found.active
    assert (active.domain, active.bound) == ("d1", "lower")
    worth = (more.objective_nats - found.objective_nats) / 1e-6
    assert active.price_nats == pytest.approx(worth, rel=1e-3)


def test_the_price_of_an_upper_bound_is_what_loosening_it_gains(fitted: Fit) -> None:
    loose = solve(fitted, Objective(step=500))
    pinned = loose.mixture.proportions["d1"] - 0.05
    found = solve(fitted, Objective(step=500), Constraints(upper={"d1": pinned}))
    more = solve(fitted, Objective(step=500), Constraints(upper={"d1": pinned + 1e-6}))
    (active,) = found.active
    assert (active.domain, active.bound) == ("d1", "upper")
    gained = (found.objective_nats - more.objective_nats) / 1e-6
    assert active.price_nats == pytest.approx(gained, rel=1e-3)


def test_weights_decide_and_a_domain_without_any_goes_to_its_least(fitted: Fit) -> None:
    found = solve(fitted, Objective(step=500, weights={"d0": 1, "d1": 3, "d2": 0}))
    even = solve(fitted, Objective(step=500, weights={"d0": 2, "d1": 2}))
    assert found.mixture.proportions["d1"] > even.mixture.proportions["d1"]
    assert found.mixture.proportions["d2"] == pytest.approx(0.001)
    assert set(found.predicted_nats) == set(fitted.targets)


def test_epoch_caps_bind_and_are_reported(fitted: Fit) -> None:
    tokens = {"d0": 1e6, "d1": 1e6, "d2": 1e8, "d3": 1e8}
    found = solve(
        fitted, Objective(step=500), Constraints(budget_tokens=40e6, tokens_available=tokens)
    )
    assert found.epochs is not None
    assert {(a.domain, a.bound) for a in found.active} == {("d0", "epochs"), ("d1", "epochs")}
    assert all(epochs <= 4 * (1 + 1e-9) for epochs in found.epochs.values())
    assert found.epochs["d1"] == pytest.approx(4)


def test_a_zero_share_is_never_given_where_the_law_diverges(fitted: Fit) -> None:
    found = solve(
        fitted, Objective(step=500, weights={"d0": 1}), Constraints(lower={"d1": 0, "d2": 0.1})
    )
    assert found.mixture.proportions["d1"] > 0
    assert np.isfinite(list(found.predicted_nats.values())).all()


def test_a_domain_may_be_shut_out_only_without_weight(fitted: Fit) -> None:
    shut = Constraints(upper={"d3": 0})
    with pytest.raises(InfeasibleConstraints, match="'d3' is 0"):
        solve(fitted, Objective(step=500), shut)
    found = solve(fitted, Objective(step=500, weights={"d0": 1, "d1": 1}), shut)
    assert found.mixture.proportions["d3"] == 0
    assert "d3" not in found.predicted_nats


def test_lower_bounds_that_take_everything_are_feasible_or_name_who_starves(fitted: Fit) -> None:
    everything = {"d0": 0.25, "d1": 0.25, "d2": 0.25, "d3": 0.25}
    found = solve(fitted, Objective(step=500), Constraints(lower=everything))
    assert dict(found.mixture.proportions) == pytest.approx(everything)
    almost = solve(fitted, Objective(step=500), Constraints(lower={"d0": 0.5, "d1": 0.499}))
    assert min(almost.mixture.proportions.values()) > 0
    with pytest.raises(InfeasibleConstraints, match="leave nothing for 'd2', 'd3'"):
        solve(fitted, Objective(step=500), Constraints(lower={"d0": 0.5, "d1": 0.5}))


def test_notes_say_where_the_answer_leaves_the_evidence(fitted: Fit) -> None:
    far = solve(fitted, Objective(step=50_000), Constraints(lower={"d0": 0.95}))
    assert any("50000 steps is outside those observed, 30 to 1000" in note for note in far.notes)
    assert any(note.startswith("d0 gets 0.95, outside") for note in far.notes)
    seen = fitted.shares_seen
    within = Constraints(
        lower={name: least for name, (least, _) in seen.items()},
        upper={name: most for name, (_, most) in seen.items()},
    )
    assert not solve(fitted, Objective(step=500), within).notes


def test_a_domain_without_a_target_is_solved_around_and_noted() -> None:
    seen = observe(mixtures(4, 12), truth=TRUTHS)
    blind = fit(BIMIX, replace(seen, targets=("d0", "d1", "d2", "news")))
    found = solve(blind, Objective(step=500), Constraints(lower={"d3": 0.2}))
    assert found.mixture.proportions["d3"] == pytest.approx(0.2)
    assert any("d3 has no target" in note for note in found.notes)
    with pytest.raises(InvalidTable, match="no fit of target 'news'"):
        solve(blind, Objective(step=500, weights={"news": 1}))


def test_a_target_whose_share_never_varied_can_not_be_optimised() -> None:
    rest = mixtures(3, 8) * 0.9
    shares = np.concatenate([rest, np.full((len(rest), 1), 0.1)], axis=1)
    fixed = fit(BIMIX, observe(shares))
    with pytest.raises(TooFewMixtures, match=r"'d3'.*share is 0\.1"):
        solve(fixed, Objective(step=100))
    solve(fixed, Objective(step=100, weights={"d0": 1, "d1": 1, "d2": 1}))


def test_objectives_that_say_nothing_are_errors(fitted: Fit) -> None:
    for weights in ({"d0": -1.0}, {"d0": float("nan")}, {"d0": 0.0}, {}):
        with pytest.raises(InvalidMixture):
            Objective(step=10, weights=weights)
    with pytest.raises(InvalidBudget):
        Objective(step=0)
    with pytest.raises(InvalidTable, match="'d9'"):
        solve(fitted, Objective(step=10, weights={"d9": 1}))


def test_a_solution_is_json(fitted: Fit) -> None:
    budget = Constraints(budget_tokens=1e6, tokens_available=dict.fromkeys(fitted.domains, 1e6))
    found = solve(fitted, Objective(step=500), budget).to_dict()
    again = json.loads(json.dumps(found, allow_nan=False))
    assert sum(again["mixture"].values()) == pytest.approx(1)
    assert again["epochs"] == pytest.approx(again["mixture"])


def test_fifty_domains_solve_like_a_general_solver() -> None:
    rng = np.random.default_rng(1)
    truths = np.stack(
        [rng.uniform(5, 12, 50), rng.uniform(0.02, 0.3, 50), rng.uniform(0.2, 0.5, 50),
         rng.uniform(0.8, 3, 50)], axis=1)  # fmt: skip
    found = solve(fit(BIMIX, observe(mixtures(50, 12), truth=truths)), Objective(step=500))
    coefficient = truths[:, 0] * 500 ** -truths[:, 2] + truths[:, 3]
    slope = coefficient * truths[:, 1] / 50 * found.mixture.shares() ** (-1 - truths[:, 1])
    free = found.mixture.shares() > 0.0011
    np.testing.assert_allclose(slope[free], found.multiplier, rtol=1e-3)


def test_notes_tell_of_targets_that_did_not_converge_though_they_are_no_domain() -> None:
    fit = transfer_fit(3, 4)
    ended = replace(
        fit.targets["t3"], status=FitStatus.BUDGET_EXHAUSTED, reason="the search used up its time"
    )
    found = solve(replace(fit, targets={**fit.targets, "t3": ended}), Objective(500))
    assert "t3's fit is budget_exhausted: the search used up its time" in found.notes


def test_a_gap_that_is_not_known_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixlab.solvers.mixing.bound_below", lambda *_: -np.inf)
    found = solve(transfer_fit(3), Objective(500))
    assert (found.status, found.gap_nats) == (SolutionStatus.INEXACT, None)
    json.dumps(found.to_dict(), allow_nan=False)


def test_weights_whose_sum_would_overflow_are_refused() -> None:
    with pytest.raises(InvalidMixture, match="at most 1e"):
        Objective(500, weights={"d0": 1e308, "d1": 1e308})
