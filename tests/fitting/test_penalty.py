"""Shrinking is as strong as held-out mixtures say, and means the same with more rows."""

import numpy as np
import pytest

from mixlab.fitting import fit
from mixlab.fitting.penalty import _ruled, parts, without
from mixlab.laws import LAWS, Inputs
from mixlab.runs import Observations

TRANSFER = LAWS["bimix_transfer"]


def helped(
    shares: np.ndarray, spread: float, *, noise: float = 0.004, steps: tuple[int, ...] = (100,),
    seed: int = 0,
) -> Observations:  # fmt: skip
    """Losses of the first domain, which the others help by worths that differ by `spread`."""
    rng = np.random.default_rng(seed)
    proportions = np.repeat(shares, len(steps), axis=0)
    at = np.tile(np.array(steps, float), len(shares))
    unknown = np.full(len(at), np.nan)
    inputs = Inputs(proportions, at, 0, unknown, unknown)
    deviations = spread * np.linspace(-1, 1, shares.shape[1] - 1)
    values = np.array([8.0, 0.12, 0.35, 1.9, 0.05, *deviations])
    losses = TRANSFER.predict(values, inputs) * np.exp(noise * rng.normal(size=len(at)))
    names = tuple(f"d{index}" for index in range(shares.shape[1]))
    runs = tuple(f"run-{index // len(steps)}" for index in range(len(at)))
    return Observations(
        runs, names, ("d0",), proportions, at, at, losses[:, None], unknown, unknown
    )


def draws(count: int, domains: int = 6, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(domains, 0.7), count)


def test_worths_that_are_all_the_same_are_shrunk_hard_and_others_are_not() -> None:
    same = fit(TRANSFER, helped(draws(40), 0.0)).targets["d0"]
    apart = fit(TRANSFER, helped(draws(40), 2.0)).targets["d0"]
    assert same.strength is not None
    assert apart.strength is not None
    assert same.strength > 5 * apart.strength
    assert np.abs(same.values[5:]).max() < 0.3
    useful = np.array([0.05, *0.05 * np.exp([1, 2])])  # the others are worth too little to tell
    worths = apart.parameters["leak"] * np.exp(apart.values[7:])
    np.testing.assert_allclose(worths, useful, rtol=0.3)


def test_the_same_checkpoints_twice_as_dense_leave_the_shrinking_as_it_is() -> None:
    few = fit(TRANSFER, helped(draws(30), 1.0, noise=0.0, steps=(50, 100, 400)))
    many = fit(TRANSFER, helped(draws(30), 1.0, noise=0.0, steps=(50, 51, 100, 101, 400, 401)))
    np.testing.assert_allclose(
        many.targets["d0"].values[5:], few.targets["d0"].values[5:], atol=0.05
    )


def test_parts_keep_a_mixtures_rows_together_and_leave_every_one_out_once() -> None:
    clusters = np.repeat(np.arange(20), 3)
    part = parts(clusters)
    assert len(np.unique(part)) == 5
    assert len({(c, p) for c, p in zip(clusters, part, strict=True)}) == 20
    np.testing.assert_array_equal(without(part).sum(axis=0), np.full(60, 4))
    assert len(np.unique(parts(np.arange(12)))) == 12


def test_the_rule_takes_the_strongest_that_the_best_does_not_clearly_beat() -> None:
    base = np.linspace(1, 2, 50)
    wobble = 0.01 * np.outer([1, -1, 1, -1], np.tile([1, -1], 25))
    errors = base + wobble + np.array([0.5, 0.0, -0.0005, 0.3])[:, None]
    assert _ruled(errors) == 1
    assert _ruled(errors - np.array([0, 0, 0.2, 0])[:, None]) == 2
    errors[0, 3] = np.nan
    assert _ruled(errors) == 1


def test_standard_errors_know_the_penalty() -> None:
    """Against the spread of fits to fresh noise."""
    shares = draws(60)
    found = [
        fit(TRANSFER, helped(shares, 1.0, noise=0.004, seed=s)).targets["d0"] for s in range(12)
    ]
    alphas = np.log([one.parameters["alpha"] for one in found])
    told = [(one.standard_errors["alpha"] or np.nan) / one.parameters["alpha"] for one in found]
    assert np.median(told) == pytest.approx(alphas.std(ddof=1), rel=0.6)
