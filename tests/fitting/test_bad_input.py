"""Odd tables: what can't be fitted is refused, what can is noted, and both say what to do."""

from dataclasses import replace

import numpy as np
import pytest

from mixlab.errors import InvalidLoss, InvalidTable, TooFewMixtures
from mixlab.fitting import FitStatus, fit
from mixlab.laws import BIMIX, LAWS
from mixlab.runs import Observations
from tests.synthetic import STEPS, TRUTH, mixtures, observe

TRANSFER = LAWS["bimix_transfer"]


def seen(domains: int = 4, count: int = 12, noise: float = 0.002) -> Observations:
    return observe(mixtures(domains, count), noise=noise)


def test_shares_that_move_together_are_named_and_fitted_all_the_same() -> None:
    rest = mixtures(3, 12)
    together = np.concatenate([rest[:, :2], rest[:, 2:] * [[0.7, 0.3]]], axis=1)
    found = fit(TRANSFER, observe(together, noise=0.002), profiles=False)
    assert any("'d2', 'd3'" in note and "train runs" in note for note in found.notes)
    assert all(np.isfinite(one.values).all() for one in found.targets.values())
    assert fit(TRANSFER, seen(), profiles=False).notes == ()


def test_a_share_that_never_varies_is_noted() -> None:
    rest = mixtures(3, 10) * 0.9
    shares = np.concatenate([rest, np.full((len(rest), 1), 0.1)], axis=1)
    found = fit(TRANSFER, observe(shares, noise=0.002), profiles=False)
    assert any("'d3'" in note and "same in every mixture" in note for note in found.notes)
    assert all(np.isfinite(one.values).all() for one in found.targets.values())


def test_fewer_runs_than_parameters_are_shrunk_or_refused_but_never_made_up() -> None:
    few = observe(mixtures(6, 8), steps=(100, 300, 1000), noise=0.002)
    found = fit(TRANSFER, few, profiles=False).targets["d0"]
    assert len(found.parameters) > found.mixtures
    assert found.train_mre_percent < 2
    with pytest.raises(TooFewMixtures, match="more mixtures"):
        fit(TRANSFER, few.take(np.arange(6)))


def test_runs_given_twice_count_once_and_are_named() -> None:
    once = seen()
    rows = np.concatenate([np.arange(len(once)), np.arange(2 * len(STEPS))])
    twice = once.take(rows)
    twice = replace(twice, runs=(*once.runs, *("copy" for _ in range(2 * len(STEPS)))))
    found = fit(BIMIX, twice, profiles=False)
    assert found.targets["d0"].rows == len(once)
    assert any("12 rows repeat" in note and "'copy'" in note for note in found.notes)
    np.testing.assert_allclose(
        found.targets["d1"].values, fit(BIMIX, once, profiles=False).targets["d1"].values, rtol=1e-6
    )


def test_a_target_measured_in_some_rows_is_fitted_on_those() -> None:
    table = observe(mixtures(4, 12))
    table.losses_nats[: 3 * len(STEPS), 2] = np.nan
    found = fit(TRANSFER, table, profiles=False)
    assert (found.targets["d2"].missing_rows, found.targets["d2"].mixtures) == (18, 9)
    assert found.targets["d0"].missing_rows == 0
    table.losses_nats[:, 1] = np.nan
    with pytest.raises(TooFewMixtures, match="'d1' was measured under 0 usable mixtures"):
        fit(TRANSFER, table)


@pytest.mark.parametrize("share", [np.nan, np.inf, -0.1, 3.2])
def test_shares_that_are_none_are_refused_by_run_and_domain(share: float) -> None:
    table = seen()
    table.proportions[7, 2] = share
    with pytest.raises(InvalidTable, match=r"'run-1' gives domain 'd2'.*Check the mixture columns"):
        fit(BIMIX, table)


def test_shares_that_do_not_sum_to_1_are_refused() -> None:
    table = seen()
    table.proportions[0] *= 0.9
    with pytest.raises(InvalidTable, match=r"'run-0' sum to 0\.9000.*Name every domain"):
        fit(BIMIX, table)


def test_shares_of_0_are_fitted_by_laws_that_allow_them_and_tiny_ones_are_noted() -> None:
    shares = mixtures(4, 12)
    shares[:3, 1], shares[3, 0] = 0, 1e-7
    found = fit(TRANSFER, observe(shares / shares.sum(axis=1, keepdims=True)), profiles=False)
    assert found.excluded_rows == 0
    assert any("below 1e-05" in note for note in found.notes)


def test_steps_or_tokens_of_0_are_refused() -> None:
    table = seen()
    table.steps[6] = 0
    with pytest.raises(InvalidTable, match=r"'run-1' has a step of 0.*before the first step"):
        fit(BIMIX, table)
    sized = replace(seen(), params=np.full(72, 1e8))
    sized.tokens[6] = 0
    with pytest.raises(InvalidTable, match=r"'run-1' has a tokens of 0"):
        fit(LAWS["chinchilla"], sized)


def test_laws_of_size_ask_for_the_column() -> None:
    with pytest.raises(InvalidTable, match=r"needs params above 0.*column 'params'"):
        fit(LAWS["chinchilla"], seen())


def test_losses_that_look_like_perplexities_or_bits_are_noted() -> None:
    table = seen()
    perplexities = replace(table, losses_nats=np.exp(table.losses_nats))
    notes = fit(BIMIX, perplexities, profiles=False).notes
    assert len(notes) == 4
    assert all("logarithm" in note and "0.693" in note for note in notes)
    accuracies = replace(table, losses_nats=table.losses_nats / 1000)
    assert "accuracies" in fit(BIMIX, accuracies, profiles=False).notes[0]


def test_swapped_columns_are_recognised() -> None:
    table = seen()
    with pytest.raises(InvalidTable, match="swapped"):
        fit(BIMIX, replace(table, losses_nats=table.proportions))
    with pytest.raises(InvalidTable, match="does the column hold losses"):
        fit(BIMIX, replace(table, proportions=table.losses_nats))


def test_a_loss_of_0_is_refused_with_what_to_do() -> None:
    table = seen()
    table.losses_nats[0, 0] = 0
    with pytest.raises(InvalidLoss, match="leave cells blank"):
        fit(BIMIX, table)


def test_one_mixture_far_off_hardly_moves_the_law() -> None:
    table = observe(mixtures(4, 14), noise=0.001)
    table.losses_nats[:6] *= 1.4
    found = fit(BIMIX, table, profiles=False).targets["d0"]
    assert found.status is FitStatus.CONVERGED
    np.testing.assert_allclose(found.values[[1, 3]], TRUTH[[1, 3]], rtol=0.1)
