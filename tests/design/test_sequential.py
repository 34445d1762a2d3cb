"""Next runs tell what decides the optimum; the ensemble's algebra is that of Gaussians."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from mixlab.design import decide, filling_mixtures, next_of, next_runs
from mixlab.design.draws import with_draws
from mixlab.design.sequential import NextRuns, condition, reductions
from mixlab.errors import InvalidBudget, InvalidMixture, InvalidTable, TooFewMixtures
from mixlab.fitting import Fit, fit
from mixlab.laws import BIMIX
from mixlab.mixture import Mixture
from mixlab.runs import Observations
from mixlab.solvers import Constraints, Objective
from tests.synthetic import observe

NAMES = ("d0", "d1", "d2")
TRUTH = np.array([[8.0, 0.05, 0.35, 1.9], [8.0, 0.15, 0.35, 1.9], [8.0, 0.1, 0.35, 1.9]])
STEP = 1000.0


def observed(rows: np.ndarray, noise: float = 0.003, seed: int = 0) -> Observations:
    return observe(rows, truth=TRUTH, steps=(1000,), run_noise=noise, seed=seed)


@cache
def scene(count: int = 8, noise: float = 0.003) -> tuple[Fit, Observations]:
    design = filling_mixtures(NAMES, count=count)
    seen = observed(np.array([one.shares(NAMES) for one in design.values()]), noise)
    return fit(BIMIX, seen, profiles=False), seen


def test_the_run_that_varies_the_unknown_domain_is_chosen() -> None:
    """d2 was always about a third; what its share does decides where the optimum is."""
    first = np.linspace(0.08, 0.58, 7)
    third = 0.33 + 0.01 * np.array([-1, 1, 0, -1, 0, 1, 1])
    seen = observed(np.stack([first, 1 - first - third, third], axis=1))
    found = fit(BIMIX, seen, profiles=False)
    known = [Mixture.of(NAMES, [0.1 + 0.1 * i, 0.57 - 0.1 * i, 0.33]) for i in range(5)]
    telling = Mixture.of(NAMES, [0.47, 0.48, 0.05])
    chosen = next_runs(found, seen, Objective(STEP), count=1, candidates=[*known, telling])
    assert list(chosen.mixtures.values()) == [telling]


def test_next_runs_obey_are_new_and_repeat_exactly() -> None:
    found, seen = scene()
    bounds = Constraints(lower={"d0": 0.1}, upper={"d1": 0.5})
    proposed = next_runs(found, seen, Objective(STEP), bounds, count=5)
    assert proposed == next_runs(found, seen, Objective(STEP), bounds, count=5)
    rows = np.array([one.shares(NAMES) for one in proposed.mixtures.values()])
    assert rows[:, 0].min() >= 0.1 - 1e-9
    assert rows[:, 1].max() <= 0.5 + 1e-9
    everything = np.sqrt(np.concatenate([rows, seen.proportions]))
    gaps = np.linalg.norm(everything[:, None] - everything[None], axis=2)[:5]
    assert np.sort(gaps, axis=1)[:, 1].min() >= 0.01 - 1e-9
    assert list(proposed.mixtures) == [f"next-0{number}" for number in range(1, 6)]


def test_from_a_pool_come_mixtures_that_are_new() -> None:
    found, seen = scene()
    pool = [Mixture.of(NAMES, row) for row in seen.proportions]
    pool += filling_mixtures(NAMES, count=40, taken=pool, seed=1).values()
    proposed = next_of(found, seen, Objective(STEP), pool, count=3)
    assert proposed == next_of(found, seen, Objective(STEP), pool, count=3)
    chosen = list(proposed.mixtures.values())
    assert all(mixture in pool[8:] for mixture in chosen)
    assert len(set(map(str, chosen))) == 3
    assert proposed.expected_regret_nats >= 0
    with pytest.raises(TooFewMixtures, match="holds 0 mixtures to run, fewer than 1"):
        next_of(found, seen, Objective(STEP), pool[:8], count=1)


def test_every_other_run_is_moved_towards_the_solution() -> None:
    """Such a one is at least 0.6 times the way from the solution short of the region's end."""
    found, seen = scene()
    proposed = next_runs(found, seen, Objective(STEP), count=4)
    best = proposed.solution.shares(NAMES)
    rows = np.array([one.shares(NAMES) for one in proposed.mixtures.values()])
    moved = best + (rows - best) / 0.6
    assert np.all(moved[::2] >= 0)


def test_from_a_pool_half_are_the_best_by_the_fit() -> None:
    found, seen = scene()
    pool = list(filling_mixtures(NAMES, count=40, seed=1).values())
    predicted = found.losses(np.array([one.shares(NAMES) for one in pool]), STEP).mean(axis=1)
    proposed = list(next_of(found, seen, Objective(STEP), pool, count=6).mixtures.values())
    assert proposed[:3] == [pool[index] for index in np.argsort(predicted)[:3]]
    assert proposed[0] == next_of(found, seen, Objective(STEP), pool, count=1).solution


def test_expected_regret_falls_with_less_noise_and_with_the_proposed_runs() -> None:
    noisy = next_runs(*scene(8, 0.01), Objective(STEP), count=3)
    clean = next_runs(*scene(8, 0.001), Objective(STEP), count=3)
    assert 0 < clean.expected_regret_nats < 0.5 * noisy.expected_regret_nats
    assert noisy.expected_regret_after_nats < noisy.expected_regret_nats


def test_expected_regret_is_about_what_choices_lose() -> None:
    """Mean over twelve tables of foreseen and of true regret, within a factor of three."""
    design = filling_mixtures(NAMES, count=8)
    rows = np.array([one.shares(NAMES) for one in design.values()])
    foreseen, lost = [], []
    best = _true(next_runs(*scene(8, 1e-6), Objective(STEP), count=1).solution)
    for seed in range(12):
        seen = observed(rows, 0.01, seed)
        proposed = next_runs(
            fit(BIMIX, seen, profiles=False), seen, Objective(STEP), count=1, draws=32
        )
        foreseen.append(proposed.expected_regret_nats)
        lost.append(_true(proposed.solution) - best)
    assert np.mean(lost) / 3 < np.mean(foreseen) < 3 * np.mean(lost)


def _true(mixture: Mixture) -> float:
    return float(observed(mixture.shares(NAMES)[None, :], 0.0).losses_nats.mean())


def test_draws_spread_as_the_fit_is_uncertain() -> None:
    """With one parameter's standard error from the fit as the reference, within a factor of two."""
    found, seen = scene()
    drawn = with_draws(found, seen, 400, 0)
    for name, told in found.targets.items():
        values = drawn.targets[name].replicates
        assert values is not None
        error = told.standard_errors["alpha"]
        assert error is not None
        assert error / 2 < values[:, 1].std() < 2 * error


def test_conditioning_is_that_of_gaussians() -> None:
    rng = np.random.default_rng(0)
    everything = rng.normal(size=(40, 17)) @ rng.normal(size=(17, 17))
    everything -= everything.mean(axis=0)
    gaps, seen = everything[:, :5], everything[:, 5:].reshape(40, 4, 3)
    noise = np.array([0.5, 2.0, 8.0])
    covariance = everything.T @ everything / 39
    run = slice(5 + 2 * 3, 5 + 3 * 3)
    gain = covariance[:, run] @ np.linalg.inv(covariance[run, run] + np.diag(noise))
    expected = covariance - gain @ covariance[run]
    after_gaps, after_seen = condition(gaps, seen, 2, noise)
    after = np.concatenate([after_gaps, after_seen.reshape(40, -1)], axis=1)
    np.testing.assert_allclose(after.T @ after / 39, expected, atol=1e-9 * covariance.max())
    fall = np.trace(covariance[:5, :5]) - np.trace(expected[:5, :5])
    assert reductions(gaps, seen, noise)[2] == pytest.approx(fall)


def proposal(regret: float, after: float = 0.001) -> NextRuns:
    mixture = Mixture.uniform(NAMES)
    return NextRuns(dict.fromkeys(["a", "b", "c"], mixture), mixture, regret, after, STEP, None)


def test_it_stops_where_the_choice_is_good_enough_or_runs_are_used_up() -> None:
    good = decide(proposal(0.0005), tolerance_nats=0.001, runs_made=10, run_budget=40)
    assert good.stop
    assert "0.0005 nats" in good.reason
    used = decide(proposal(0.005), tolerance_nats=0.001, runs_made=40, run_budget=40)
    assert used.stop
    assert "40 runs are made" in used.reason
    more = decide(proposal(0.005), tolerance_nats=0.001, runs_made=38, run_budget=40)
    assert (more.stop, more.runs) == (False, 2)
    assert "2 of 40 runs are left" in more.reason
    assert "cut that to 0.001" in more.reason
    assert decide(proposal(0.005), tolerance_nats=0.001, runs_made=38).runs == 3


def test_what_can_not_be_proposed_is_an_error() -> None:
    found, seen = scene()
    objective = Objective(STEP)
    with pytest.raises(TooFewMixtures, match="at least 1, not 0"):
        next_runs(found, seen, objective, count=0)
    with pytest.raises(TooFewMixtures, match="at least 8 draws, not 2"):
        next_runs(found, seen, objective, count=1, draws=2)
    with pytest.raises(InvalidMixture, match="no candidates"):
        next_runs(found, seen, objective, count=1, candidates=[])
    nothing = [Mixture.of(NAMES, [0.5, 0.5, 0.0])]  # BiMix is undefined there
    with pytest.raises(TooFewMixtures, match=r"Only 0 of the candidates differ"):
        next_runs(found, seen, objective, count=1, candidates=nothing)
    same = [Mixture.of(NAMES, row) for row in seen.proportions]
    with pytest.raises(TooFewMixtures, match=r"Only 0 of the candidates differ"):
        next_runs(found, seen, objective, count=1, candidates=same)
    with pytest.raises(InvalidTable, match="must be those that the fit was made on"):
        next_runs(found, replace(seen, domains=("x", "y", "z")), objective, count=1)
    with pytest.raises(InvalidBudget, match="tolerance is 0 nats"):
        decide(proposal(0.1), tolerance_nats=0, runs_made=1)
    with pytest.raises(InvalidBudget, match="neither is below 0"):
        decide(proposal(0.1), tolerance_nats=1, runs_made=-1)
