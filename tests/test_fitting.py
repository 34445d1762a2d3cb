"""A fit recovers the parameters that made the losses, and says so where it can't."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlab.errors import InvalidBudget, InvalidLoss, InvalidMixture, InvalidTable, TooFewMixtures
from mixlab.fitting import Fit, FitStatus, fit
from mixlab.laws import BIMIX
from mixlab.mixture import Mixture
from mixlab.runs import Observations
from tests.synthetic import STEPS, TRUTH, mixtures, observe

NAMES = ("scale", "alpha", "beta", "floor")


@settings(max_examples=25, deadline=None)
@given(
    st.floats(2, 60),
    st.floats(0.01, 0.6),
    st.floats(0.15, 1.1),
    st.floats(0.3, 4),
    st.integers(0, 9),
)
def test_noiseless_losses_give_back_all_four_parameters(
    scale: float, alpha: float, beta: float, floor: float, seed: int
) -> None:
    truth = np.array([scale, alpha, beta, floor])
    found = fit(BIMIX, observe(mixtures(5, 10, seed), truth=truth))
    for target in found.targets.values():
        np.testing.assert_allclose(target.values, truth, rtol=1e-4)
        assert target.status is FitStatus.CONVERGED
        assert target.r2_log_loss == pytest.approx(1)


def test_tokens_as_the_step_variable_change_the_scale_only() -> None:
    seen = observe(mixtures(4, 10))
    found = fit(BIMIX, replace(seen, steps=seen.tokens))
    expected = TRUTH * [4096 ** TRUTH[2], 1, 1, 1]
    np.testing.assert_allclose(found.targets["d0"].values, expected, rtol=1e-4)
    assert (found.step_unit, found.step_at(5e6)) == ("tokens", 5e6)


def coverage(**how: float) -> dict[str, float]:
    """Percent of 200 draws in which each parameter's interval holds the truth."""
    shares = mixtures(4, 14)
    hits = dict.fromkeys(NAMES, 0)
    for seed in range(50):  # 4 targets each
        found = fit(BIMIX, observe(shares, noise=how["noise"], run_noise=how["run"], seed=seed))
        for target in found.targets.values():
            for name, truth in zip(NAMES, TRUTH, strict=True):
                low, high = target.interval95[name] or (np.inf, -np.inf)
                hits[name] += low <= truth <= high
    return {name: count / 2 for name, count in hits.items()}


@pytest.mark.slow
def test_intervals_hold_the_truth_under_half_a_percent_of_noise() -> None:
    found = coverage(noise=0.005, run=0.0)
    assert all(90 <= percent <= 99 for percent in found.values()), found


@pytest.mark.slow
def test_intervals_hold_the_truth_when_a_runs_rows_share_their_luck() -> None:
    found = coverage(noise=0.002, run=0.005)
    assert all(90 <= percent <= 99 for percent in found.values()), found


def test_standard_errors_are_those_of_leaving_out_each_mixture() -> None:
    """Against the jackknife itself, by as many fits as there are mixtures."""
    groups, ratios = 8, []
    for seed in (0, 1):
        seen = observe(mixtures(3, groups), noise=0.001, run_noise=0.002, seed=seed)
        found = fit(BIMIX, seen, profiles=False)
        clusters = seen.mixture_index()
        without = [fit(BIMIX, seen.take(clusters != g), profiles=False) for g in range(groups)]
        for name, target in found.targets.items():
            moved = np.log([other.targets[name].values for other in without]) - np.log(
                target.values
            )
            expected = np.sqrt((groups - 1) / groups * (moved**2).sum(axis=0))
            ratios.append(np.sqrt(np.diag(np.array(target.log_covariance))) / expected)
    assert np.median(ratios) == pytest.approx(1, abs=0.04)
    assert np.array(ratios) == pytest.approx(1, abs=0.25)


def test_intervals_reach_as_far_as_students_t_with_one_less_than_the_mixtures() -> None:
    seen = observe(mixtures(3, 8), noise=0.001, run_noise=0.002)
    for target in fit(BIMIX, seen, profiles=False).targets.values():
        for name, value in target.parameters.items():
            low, high = target.interval95[name] or (np.nan, np.nan)
            error = (target.standard_errors[name] or np.nan) / value
            assert np.log(high / value) / error == pytest.approx(2.3646, abs=1e-4)  # t of 7
            assert np.log(value / low) / error == pytest.approx(2.3646, abs=1e-4)


def test_steps_too_close_to_tell_apart_are_said_to_trade_off() -> None:
    seen = observe(mixtures(3, 8), steps=(1000, 1000.01, 1000.02))  # type: ignore[arg-type]
    for target in fit(BIMIX, seen).targets.values():
        assert target.status is FitStatus.NOT_IDENTIFIABLE
        assert target.unidentified == ("scale", "beta", "floor")
        assert "trade off" in (target.reason or "")
        assert target.parameters["alpha"] == pytest.approx(TRUTH[1], rel=1e-4)


FEW_STEPS = (60, 90, 120, 150)


def test_a_floor_that_few_steps_hide_gets_an_interval_from_0_that_holds_it() -> None:
    truth = np.array([12.0, 0.1, 0.3, 0.3])
    seen = observe(mixtures(4, 14), truth=truth, noise=0.005, steps=FEW_STEPS, seed=4)
    limited = [found for found in fit(BIMIX, seen).targets.values() if "floor" in found.at_bound]
    assert limited
    for found in limited:
        assert found.standard_errors["floor"] is None
        low, high = found.interval95["floor"] or (1.0, 0.0)
        assert low == 0
        assert truth[3] < high < 4


def test_where_the_cost_is_a_parabola_the_profile_agrees_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = observe(mixtures(4, 14), noise=0.001)
    quick = fit(BIMIX, seen, profiles=False)
    monkeypatch.setattr("mixlab.fitting.profile.VAGUE", 0.0)
    careful = fit(BIMIX, seen)
    for target, found in careful.targets.items():
        for name, interval in found.interval95.items():
            expected = np.log(quick.targets[target].interval95[name])
            width = expected[1] - expected[0]
            np.testing.assert_allclose(np.log(interval), expected, atol=0.07 * width)


def test_stray_rows_hardly_move_the_parameters() -> None:
    seen = observe(mixtures(4, 14), noise=0.002)
    losses = seen.losses_nats.copy()
    losses[::20] *= 1.5
    found = fit(BIMIX, replace(seen, losses_nats=losses)).targets["d0"]
    np.testing.assert_allclose(found.values[[1, 3]], TRUTH[[1, 3]], rtol=0.05)


@pytest.mark.parametrize(
    ("truth", "gone"),
    [
        ([30.0, 0.05, 0.5, 0.0], ("floor",)),
        ([8.0, 0.0, 0.35, 1.9], ("alpha",)),
        ([0.0, 0.1, 0.3, 2.0], ("scale", "beta")),
    ],
)
def test_a_parameter_that_the_losses_push_to_nothing_is_reported_at_its_bound(
    truth: list[float], gone: tuple[str, ...]
) -> None:
    found = fit(BIMIX, observe(mixtures(3, 8), truth=np.array(truth))).targets["d1"]
    assert found.status is FitStatus.AT_BOUND
    assert found.at_bound == gone
    for index, name in enumerate(NAMES):
        if name in gone:
            assert found.parameters[name] == 0
            assert found.standard_errors[name] is None
        else:
            assert found.parameters[name] == pytest.approx(truth[index], rel=1e-4)


def test_losses_that_rise_with_their_share_put_the_exponent_at_0() -> None:
    shares = mixtures(3, 10)
    seen = observe(shares, noise=0.001)
    rising = seen.losses_nats * seen.proportions**0.2
    found = fit(BIMIX, replace(seen, losses_nats=rising)).targets["d0"]
    assert found.parameters["alpha"] == 0
    assert found.status is FitStatus.AT_BOUND


def test_one_step_leaves_the_steps_parameters_unidentified_but_the_share_told() -> None:
    found = fit(BIMIX, observe(mixtures(4, 10), steps=(200,))).targets["d2"]
    assert found.status is FitStatus.NOT_IDENTIFIABLE
    assert found.unidentified == ("beta", "floor")
    assert "1 step" in str(found.reason)
    assert found.parameters["alpha"] == pytest.approx(TRUTH[1], rel=1e-4)
    assert found.standard_errors["floor"] is None


def test_two_steps_can_not_tell_a_floor() -> None:
    found = fit(BIMIX, observe(mixtures(4, 10), steps=(100, 200))).targets["d0"]
    assert (found.status, found.unidentified) == (FitStatus.NOT_IDENTIFIABLE, ("floor",))


def test_a_share_that_never_varies_leaves_the_exponent_unidentified() -> None:
    rest = mixtures(3, 8) * 0.9
    shares = np.concatenate([rest, np.full((len(rest), 1), 0.1)], axis=1)
    found = fit(BIMIX, observe(shares))
    assert found.targets["d3"].unidentified == ("alpha",)
    assert "share is 0.1" in str(found.targets["d3"].reason)
    assert found.targets["d0"].status is FitStatus.CONVERGED


def test_rows_with_a_share_of_0_are_left_out_and_counted_or_floored() -> None:
    shares = mixtures(4, 10)
    shares[:2, 0] = 0
    seen = observe(shares / shares.sum(axis=1, keepdims=True))
    found = fit(BIMIX, seen)
    assert found.targets["d0"].excluded_rows == found.excluded_rows == 2 * len(STEPS)
    np.testing.assert_allclose(found.targets["d0"].values, TRUTH, rtol=1e-4)
    floored = fit(BIMIX, seen, share_floor=0.01)
    assert floored.excluded_rows == 0
    assert floored.targets["d0"].floored_rows == 2 * len(STEPS)
    assert np.isfinite(
        list(floored.predict(Mixture.of(seen.domains, shares[0]), 100).values())
    ).all()
    with pytest.raises(InvalidMixture, match="share of 0"):
        found.predict(Mixture.of(seen.domains, shares[0]), 100)


def test_unmeasured_losses_are_skipped_and_counted() -> None:
    seen = observe(mixtures(4, 10))
    seen.losses_nats[3, 1] = np.nan
    found = fit(BIMIX, seen)
    assert (found.targets["d1"].missing_rows, found.targets["d0"].missing_rows) == (1, 0)
    np.testing.assert_allclose(found.targets["d1"].values, TRUTH, rtol=1e-4)


@pytest.mark.parametrize("loss", [np.inf, 0.0, -1.0])
def test_a_loss_that_is_no_loss_is_an_error_naming_run_and_target(loss: float) -> None:
    seen = observe(mixtures(3, 6))
    seen.losses_nats[len(STEPS), 1] = loss
    with pytest.raises(InvalidLoss, match=r"'run-1'.*'d1'"):
        fit(BIMIX, seen)


def test_too_few_mixtures_say_how_many_there_are_and_are_needed() -> None:
    with pytest.raises(TooFewMixtures, match=r"under 2 usable mixtures.*at least 3"):
        fit(BIMIX, observe(mixtures(3, 6)[:2]))


def test_targets_that_are_no_domains_are_left_out_with_a_reason() -> None:
    seen = observe(mixtures(3, 6))
    renamed = replace(seen, targets=("d0", "news", "d2"))
    found = fit(BIMIX, renamed)
    assert set(found.targets) == {"d0", "d2"}
    assert "no domain" in found.left_out_targets["news"]
    with pytest.raises(InvalidTable, match="named like domains"):
        fit(BIMIX, replace(seen, targets=("x", "y", "z")))


def test_a_fit_survives_json_and_predicts_the_same() -> None:
    found = fit(BIMIX, observe(mixtures(4, 14), noise=0.005))
    again = Fit.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert again == found
    mixture = Mixture.uniform(found.domains)
    assert again.predict(mixture, 300) == found.predict(mixture, 300)
    with pytest.raises(InvalidTable, match="not a saved fit"):
        Fit.from_dict({"law": "bimix"})


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("targets", {}), ("domains", []), ("domains", ["d0", "d0", "d2"]), ("share_floor", "x"),
        ("share_floor", 2), ("tokens_per_step", -1), ("step_unit", "x"), ("steps_seen", [0, 1]),
        ("parameters", {}), ("log_covariance", [[1.0]]), ("noise_percent", None),
    ],
)  # fmt: skip
def test_a_saved_fit_whose_parts_do_not_belong_together_is_refused(part: str, value: Any) -> None:
    saved = json.loads(json.dumps(fit(BIMIX, observe(mixtures(3, 6)), heldout=False).to_dict()))
    (saved["targets"]["d0"] if part in saved["targets"]["d0"] else saved)[part] = value
    with pytest.raises(InvalidTable, match="not a saved fit"):
        Fit.from_dict(saved)


def test_a_degenerate_fit_is_valid_json_too() -> None:
    for truth in ([0.0, 0.1, 0.3, 2.0], [8.0, 0.0, 0.35, 1.9]):
        found = fit(BIMIX, observe(mixtures(3, 8), truth=np.array(truth)))
        assert Fit.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found


def test_predictions_and_their_errors() -> None:
    seen = observe(mixtures(4, 14), noise=0.005)
    found = fit(BIMIX, seen)
    mixture = Mixture.uniform(found.domains)
    truth = TRUTH[0] * 300 ** -TRUTH[2] + TRUTH[3]
    expected = 0.25 ** -TRUTH[1] * truth
    for target, error in found.prediction_errors(mixture, 300).items():
        assert error is not None
        assert 0 < error < 0.01 * expected
        assert abs(found.predict(mixture, 300)[target] - expected) < 4 * error
    with pytest.raises(InvalidMixture, match="'poetry'"):
        found.predict(Mixture({"poetry": 1.0}), 300)
    with pytest.raises(InvalidBudget):
        found.predict(mixture, -1)


def test_a_budget_becomes_a_step() -> None:
    found = fit(BIMIX, observe(mixtures(3, 6)))
    assert (found.step_unit, found.step_at(4096_000)) == ("steps", 1000)
    assert replace(found, tokens_per_step=None).step_at(8000, tokens_per_step=8) == 1000
    with pytest.raises(InvalidBudget, match="tokens_per_step"):
        replace(found, tokens_per_step=None).step_at(8000)


def test_rows_in_another_order_give_the_same_fit() -> None:
    seen = observe(mixtures(4, 14), noise=0.005)
    order = np.random.default_rng(0).permutation(len(seen))
    one: Observations = seen.take(order)
    for target, found in fit(BIMIX, one).targets.items():
        np.testing.assert_allclose(found.values, fit(BIMIX, seen).targets[target].values, rtol=1e-6)
