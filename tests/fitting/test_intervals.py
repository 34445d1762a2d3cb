"""Prediction intervals hold what new runs measure, and widen beyond what was seen."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import stdtrit

from mixlab.errors import InvalidBudget, InvalidTable
from mixlab.fitting import Fit, fit
from mixlab.fitting.intervals import calibrated
from mixlab.laws import BIMIX, LAWS
from mixlab.mixture import Mixture
from mixlab.runs import Observations
from tests.synthetic import mixtures, observe

TRANSFER = LAWS["bimix_transfer"]


def fresh(count: int, seed: int) -> np.ndarray:
    """Mixtures near those that designs make."""
    shares = np.random.default_rng(seed).dirichlet(np.full(4, 2.0), count) + 0.02
    return shares / shares.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("law", [BIMIX, TRANSFER])
@pytest.mark.parametrize("count", [14, 50])
def test_intervals_hold_the_losses_of_new_runs_in_90_to_99_percent(law: object, count: int) -> None:
    hits = []
    for seed in range(2):
        found = fit(law, observe(fresh(count, seed), noise=0.003, run_noise=0.006, seed=seed),
                    profiles=False)  # fmt: skip
        new = observe(fresh(100, 90 + seed), noise=0.003, run_noise=0.006, seed=70 + seed)
        missed = np.abs(np.log(found.losses(new.proportions, new.steps) / new.losses_nats))
        hits.append(missed <= found.interval_widths(new.proportions, new.steps))
    assert 0.9 <= np.mean(hits) <= 0.99


def test_one_interval_is_that_of_many_and_holds_the_prediction() -> None:
    found = fit(BIMIX, observe(mixtures(4, 14), noise=0.004), profiles=False)
    mixture = Mixture.uniform(found.domains)
    shares = mixture.shares(found.domains)[None, :]
    widths = found.interval_widths(shares, 300)[0]
    for (name, (low, high)), width in zip(
        found.interval95(mixture, 300).items(), widths, strict=True
    ):
        predicted = found.predict(mixture, 300)[name]
        assert low < predicted < high
        assert np.log(high / predicted) == pytest.approx(width)
    np.testing.assert_allclose(
        found.losses(shares, 300)[0], list(found.predict(mixture, 300).values())
    )


def test_intervals_widen_beyond_the_steps_seen() -> None:
    found = fit(BIMIX, observe(mixtures(4, 14), noise=0.004), profiles=False)
    once = fit(BIMIX, observe(mixtures(4, 14), noise=0.004, steps=(100,)), profiles=False)
    shares = mixtures(4, 14)[:1]
    inside, outside = (found.interval_widths(shares, step) for step in (1000, 30_000))
    assert np.all(outside >= inside)
    assert np.all(once.interval_widths(shares, 1000) > 5 * once.interval_widths(shares, 100))


def test_undefined_shares_have_infinite_losses_in_arrays() -> None:
    found = fit(BIMIX, observe(mixtures(3, 8)), profiles=False)
    losses = found.losses(np.array([[0.0, 0.5, 0.5]]), 100)
    assert np.isinf(losses[0, 0])
    assert np.isfinite(losses[0, 1:]).all()


def test_a_bootstrap_spreads_as_the_standard_errors_say() -> None:
    table = observe(mixtures(4, 30), noise=0.002, run_noise=0.004)
    ratios = []
    for one in fit(BIMIX, table, profiles=False, replicates=100).targets.values():
        assert one.replicates is not None
        assert one.replicates.shape == (100, 4)
        told = np.sqrt(np.diag(np.array(one.log_covariance)))
        spread = np.log(one.replicates).std(axis=0)
        ratios.append(spread[1] / told[1])
    np.testing.assert_allclose(ratios, 1, atol=0.4)
    assert np.mean(ratios) == pytest.approx(1, abs=0.15)


def test_replicates_residuals_and_held_out_errors_survive_json() -> None:
    found = fit(TRANSFER, observe(mixtures(3, 8), noise=0.003), profiles=False, replicates=3)
    again = Fit.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert again == found
    for name, one in found.targets.items():
        np.testing.assert_allclose(again.targets[name].replicates, one.replicates, rtol=1e-6)
        assert one.heldout is not None
        assert again.targets[name].heldout == one.heldout


def test_fits_saved_by_version_0_1_0_are_read() -> None:
    found = fit(BIMIX, observe(mixtures(3, 8), noise=0.003), profiles=False, heldout=False)
    old = found.to_dict()
    for name in ("notes", "sizes_seen"):
        del old[name]
    for target in old["targets"].values():
        for name in ("law", "strength", "heldout", "residual", "replicates"):
            del target[name]
    again = Fit.from_dict(json.loads(json.dumps(old)))
    assert again == replace(found, notes=(), sizes_seen=None)
    mixture = Mixture.uniform(found.domains)
    low, high = again.interval95(mixture, 300)["d0"]
    assert low < found.predict(mixture, 300)["d0"] < high


def sized(noise: float = 0.002) -> Observations:
    """A law of sizes and tokens alone, without domains."""
    rng = np.random.default_rng(0)
    sizes, tokens = (g.ravel() for g in np.meshgrid(np.geomspace(5e7, 1e9, 5),
                                                    np.geomspace(1e9, 3e10, 6)))  # fmt: skip
    losses = 1.8 + 480 * sizes**-0.35 + 2100 * tokens**-0.37
    losses = (losses * np.exp(noise * rng.normal(size=len(sizes))))[:, None]
    runs = tuple(f"run-{index}" for index in range(len(sizes)))
    empty, unknown = np.zeros((len(sizes), 0)), np.full(len(sizes), np.nan)
    return Observations(runs, (), ("all",), empty, tokens, tokens, losses, sizes, unknown)


def test_laws_of_size_are_fitted_without_domains_by_run_and_ask_for_params() -> None:
    found = fit(LAWS["chinchilla"], sized(), profiles=False)
    assert (found.step_unit, found.targets["all"].mixtures) == ("tokens", 30)
    assert found.sizes_seen == pytest.approx((5e7, 1e9))
    shares = np.zeros((1, 0))
    expected = 1.8 + 480 * 2e8**-0.35 + 2100 * 5e9**-0.37
    assert found.losses(shares, 5e9, params=2e8)[0, 0] == pytest.approx(expected, rel=0.005)
    with pytest.raises(InvalidBudget, match="give params"):
        found.losses(shares, 5e9)
    inside, beyond = (found.interval_widths(shares, 3e10, size)[0, 0] for size in (1e9, 5e10))
    assert beyond > inside


def test_fits_with_several_laws_have_no_single_one() -> None:
    found = fit(BIMIX, observe(mixtures(3, 8), noise=0.003), profiles=False)
    other = fit(TRANSFER, observe(mixtures(3, 8), noise=0.003), profiles=False)
    both = replace(
        found, law_name="auto", targets={"d0": found.targets["d0"], "d1": other.targets["d1"]}
    )
    assert Fit.from_dict(json.loads(json.dumps(both.to_dict()))) == both
    assert set(both.predict(Mixture.uniform(found.domains), 100)) == {"d0", "d1"}
    with pytest.raises(InvalidTable, match="2 laws"):
        _ = both.law


def one_error_a_mixture(mixtures: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    errors = np.random.default_rng(0).normal(0, 0.01, mixtures)
    return errors, np.full(mixtures, 4e-5), np.arange(mixtures)


def test_the_misfit_is_what_the_parameters_leave_unexplained() -> None:
    errors, variances, clusters = one_error_a_mixture(60)
    found = calibrated(errors, variances, clusters, folds=5, noise=0.0)
    assert found is not None
    assert found.misfit == pytest.approx(np.sqrt(np.mean(errors**2) - 4e-5))
    noisy = calibrated(errors, variances, clusters, folds=5, noise=0.1)
    assert noisy is not None
    assert noisy.misfit == 0.1


def test_the_quantile_is_student_s_for_few_mixtures_and_the_conformal_one_for_strays() -> None:
    errors, variances, clusters = one_error_a_mixture(10)
    few = calibrated(errors, variances, clusters, folds=5, noise=0.0)
    assert few is not None
    assert few.quantile == pytest.approx(stdtrit(9, 0.975) * np.sqrt(1.1))
    errors, variances, clusters = one_error_a_mixture(60)
    errors[:6] = 0.2  # a tenth of the mixtures, which Student's t would leave out
    many = calibrated(errors, variances, clusters, folds=5, noise=0.0)
    assert many is not None
    ratios = np.abs(errors) / np.sqrt(many.misfit**2 + variances)
    assert many.quantile == pytest.approx(np.quantile(ratios, 0.95 * 61 / 60))
    assert many.quantile > stdtrit(59, 0.975) * np.sqrt(61 / 60)


def test_what_a_law_misses_on_the_latest_steps_widens_intervals_beyond_them() -> None:
    seen = observe(mixtures(4, 14), noise=0.001)
    late = np.log(seen.steps / seen.steps.min())[:, None]
    bent = replace(seen, losses_nats=seen.losses_nats * np.exp(-0.004 * late**3))
    rates = []
    for table in (seen, bent):
        heldout = fit(BIMIX, table, profiles=False).targets["d0"].heldout
        assert heldout is not None
        assert heldout.per_step is not None
        rates.append(heldout.per_step)
    assert rates[1] > 0.01 > rates[0]
