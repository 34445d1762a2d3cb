"""What all runs share at a checkpoint: found where it is, nothing where it isn't, kept in JSON."""

import json

import numpy as np

from mixlab.fitting.checkpoints import NONE, Checkpoints, fit_checkpoints
from mixlab.laws import Inputs

STEPS = np.array([100.0, 200.0, 400.0, 800.0])


def table(
    mixtures: int, effects: np.ndarray, noise: float, seed: int = 0
) -> tuple[Inputs, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(mixtures), len(STEPS))
    steps = np.tile(STEPS, mixtures)
    unknown = np.full(len(steps), np.nan)
    inputs = Inputs(np.full((len(steps), 2), 0.5), steps, 0, unknown, unknown)
    misses = np.tile(effects, mixtures) + noise * rng.normal(size=len(steps))
    return inputs, misses, clusters


def test_effects_are_found_and_hold_at_their_checkpoints_alone() -> None:
    effects = np.array([0.01, -0.02, 0.005, 0.0])
    inputs, misses, clusters = table(30, effects, 0.004)
    found = fit_checkpoints(inputs, misses, clusters)
    np.testing.assert_allclose(found.at(inputs)[:4], effects, atol=0.003)
    between = Inputs(
        inputs.proportions[:1], np.array([300.0]), 0, inputs.params[:1], inputs.params[:1]
    )
    assert found.at(between) == 0
    nearly = Inputs(
        inputs.proportions[:1], np.array([200.1]), 0, inputs.params[:1], inputs.params[:1]
    )
    assert found.at(nearly) == found.at(inputs)[1]
    again = Checkpoints.from_dict(json.loads(json.dumps(found.to_dict())))
    np.testing.assert_array_equal(again.at(inputs), found.at(inputs))


def test_noise_alone_few_mixtures_or_few_steps_have_no_effects() -> None:
    assert not fit_checkpoints(*table(30, np.zeros(4), 0.004)).used
    assert not fit_checkpoints(*table(4, np.array([0.01, -0.02, 0.005, 0.0]), 0.001)).used
    inputs, misses, clusters = table(30, np.array([0.01, -0.02, 0.0, 0.0]), 0.001)
    two = inputs.steps < 300
    assert not fit_checkpoints(inputs.take(two), misses[two], clusters[two]).used


def test_a_fold_has_effects_if_the_whole_table_has() -> None:
    inputs, misses, clusters = table(30, np.array([0.01, -0.02, 0.005, 0.0]), 0.004)
    whole = fit_checkpoints(inputs, misses, clusters)
    kept = clusters < 20
    fold = fit_checkpoints(inputs.take(kept), misses[kept], clusters[kept], like=whole)
    np.testing.assert_allclose(fold.effects, whole.effects, atol=0.003)
    assert fit_checkpoints(inputs, misses, clusters, like=NONE) is NONE


def test_medians_of_noise_help_the_rows_that_they_are_of_but_do_not_count() -> None:
    used = [fit_checkpoints(*table(12, np.zeros(4), 0.004, seed)).used for seed in range(30)]
    assert sum(used) <= 6
