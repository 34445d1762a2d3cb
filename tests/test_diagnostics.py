"""Held-out errors see no mixture that the fit saw, and seed noise is what repeats show."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from mixlab.diagnostics import heldout_misses, heldout_mre_percent, seed_noise
from mixlab.errors import TooFewMixtures
from mixlab.laws import BIMIX, LAWS
from mixlab.runs import Observations
from tests.synthetic import STEPS, mixtures, observe


def test_losses_that_obey_the_law_are_predicted_on_unseen_mixtures() -> None:
    found = heldout_mre_percent(BIMIX, observe(mixtures(4, 8)))
    assert found == pytest.approx(dict.fromkeys(("d0", "d1", "d2", "d3"), 0.0), abs=1e-6)


def test_shrunk_laws_choose_their_strength_without_the_left_out_mixtures() -> None:
    seen = observe(mixtures(3, 8), noise=0.002)
    alone = replace(seen, targets=("d1",), losses_nats=seen.losses_nats[:, [1]])
    found = heldout_mre_percent(LAWS["bimix_transfer"], alone)
    assert 0.1 < found["d1"] < 1.0
    nonsense = alone.losses_nats.copy()
    nonsense[-len(STEPS) :] *= 1.3
    misses = heldout_misses(LAWS["bimix_transfer"], replace(alone, losses_nats=nonsense), folds=8)
    errors = [m.predicted_nats / m.observed_nats - 1 for m in misses if m.run == "run-7"]
    np.testing.assert_allclose(errors, 1 / 1.3 - 1, atol=0.02)


def test_every_measured_loss_is_predicted_once() -> None:
    seen = observe(mixtures(3, 14), noise=0.01)
    seen.losses_nats[5, 1] = np.nan
    for folds in (None, 2, 14):
        misses = heldout_misses(BIMIX, seen, folds=folds)
        assert len(misses) == 14 * len(STEPS) * 3 - 1
        assert len({(miss.run, miss.target, miss.step) for miss in misses}) == len(misses)


def test_no_row_of_a_left_out_mixture_reaches_the_fit() -> None:
    # The last mixture's losses are nonsense under two run names: only leaving out both shows it.
    shares = mixtures(3, 8)
    shares = np.concatenate([shares, shares[-1:]])
    seen = observe(shares)
    losses = seen.losses_nats.copy()
    losses[-2 * len(STEPS) :] *= 1.3
    misses = heldout_misses(BIMIX, replace(seen, losses_nats=losses), folds=8)
    errors = [m.predicted_nats / m.observed_nats - 1 for m in misses if m.run in ("run-7", "run-8")]
    np.testing.assert_allclose(errors, 1 / 1.3 - 1, atol=1e-6)


def test_three_mixtures_can_be_held_out_and_two_can_not() -> None:
    assert set(heldout_mre_percent(BIMIX, observe(mixtures(3, 3)))) == {"d0", "d1", "d2"}
    with pytest.raises(TooFewMixtures, match=r"2 mixtures.*at least 3"):
        heldout_mre_percent(BIMIX, observe(mixtures(3, 3)[:2]))
    with pytest.raises(TooFewMixtures, match="parts, not 9"):
        heldout_mre_percent(BIMIX, observe(mixtures(3, 4)), folds=9)


def test_a_domain_that_three_of_many_mixtures_hold_is_held_out_one_mixture_at_a_time() -> None:
    shares = mixtures(4, 16)
    for held in combinations(range(0, 16, 4), 3):
        few = shares.copy()
        few[[row for row in range(16) if row not in held], 3] = 0
        seen = observe(few / few.sum(axis=1, keepdims=True))
        assert heldout_mre_percent(BIMIX, seen)["d3"] == pytest.approx(0, abs=1e-6)


def test_seed_noise_is_the_pooled_deviation_of_repeated_mixtures() -> None:
    shares = np.repeat(mixtures(3, 40), 3, axis=0)
    clean, noisy = observe(shares), observe(shares)
    noisy.losses_nats[:] += np.random.default_rng(0).normal(size=noisy.losses_nats.shape) * 0.02
    assert seed_noise(clean) == pytest.approx(dict.fromkeys(clean.targets, 0), abs=1e-12)
    assert seed_noise(noisy) == pytest.approx(dict.fromkeys(clean.targets, 0.02), rel=0.1)


def test_without_a_repeated_mixture_there_is_no_seed_noise() -> None:
    seen: Observations = observe(mixtures(3, 5), noise=0.01)
    assert seed_noise(seen) == {}
