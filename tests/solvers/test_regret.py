"""What replicates say of a solution, against closed forms and brute force."""

import json

import numpy as np
import pytest

from mixlab.errors import InvalidInput, InvalidMixture, InvalidTable
from mixlab.laws import BIMIX
from mixlab.mixture import Mixture
from mixlab.solvers import Constraints, Objective, difference, pareto, regret, solve
from tests.solvers.made import grid, made, target, transfer_fit

FIT = transfer_fit(3, replicates=60, spread=0.05)
AT = Objective(500)


def test_optimism_and_regret_are_those_of_brute_force() -> None:
    solution = solve(FIT, AT)
    found = regret(FIT, AT, None, solution, draws=300)
    surface = FIT.surface(500)
    points = 0.997 * grid(150) + 0.001
    ours = surface.losses(points).mean(axis=1)
    theirs = np.array([one.losses(points).mean(axis=1) for one in surface.replicates])
    best = theirs.argmin(axis=1)
    optimism = ours[best] - theirs.min(axis=1)
    assert found.optimism_nats == pytest.approx(optimism.mean(), abs=3e-4)
    assert found.sampling_regret_nats == pytest.approx(ours[best].mean() - ours.min(), abs=3e-4)
    assert found.corrected_nats == pytest.approx(solution.objective_nats + found.optimism_nats)
    assert found.sampling_regret_nats >= 0
    assert found.selection_nats >= found.sampling_regret_nats
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["replicates"] == 60


def test_the_region_holds_what_can_not_be_told_from_the_optimum() -> None:
    solution = solve(FIT, AT)
    found = regret(FIT, AT, None, solution, draws=600)
    assert found.replicate_optima.shape == (60, 3)
    for index, (name, share) in enumerate(solution.mixture):
        low, high = found.region[name]
        assert low <= share <= high
        assert low <= found.replicate_optima[:, index].min()
        assert high >= found.replicate_optima[:, index].max()
    sure = regret(
        fit := transfer_fit(3, replicates=60, spread=0.001), AT, None, solve(fit, AT), draws=600
    )
    wide = sum(high - low for low, high in found.region.values())
    assert sum(high - low for low, high in sure.region.values()) < wide / 3
    assert sure.sampling_regret_nats < found.sampling_regret_nats / 10


def test_the_exact_way_serves_replicates_too() -> None:
    names, rng = ("d0", "d1", "d2", "d3"), np.random.default_rng(0)
    targets = {}
    for name in names:
        values = np.array([8.0, rng.uniform(0.05, 0.3), 0.35, 1.9])
        members = values * np.exp(0.02 * rng.normal(size=(40, 4)))
        targets[name] = target(name, BIMIX, names, values, replicates=members)
    fit = made(targets, names)
    limits = Constraints(upper={"d0": 0.2})
    found = regret(fit, AT, limits, solve(fit, AT, limits))
    assert found.replicate_optima[:, 0].max() <= 0.2 + 1e-12
    assert found.selection_nats >= found.sampling_regret_nats >= 0


def test_two_mixtures_are_told_apart_or_not() -> None:
    best = solve(FIT, AT).mixture
    worse = Mixture({"d0": 0.9, "d1": 0.05, "d2": 0.05})
    assert difference(FIT, AT, worse, best).told_apart
    same = difference(FIT, AT, best, best)
    assert (same.nats, same.low, same.high, same.told_apart) == (0, 0, 0, False)
    with pytest.raises(InvalidMixture, match="'d9'"):
        difference(FIT, AT, best, Mixture({"d9": 1.0}))


def test_without_replicates_nothing_can_be_said() -> None:
    fit = transfer_fit(3)
    with pytest.raises(InvalidTable, match="fit again with replicates"):
        regret(fit, AT, None, solve(fit, AT))


def test_a_front_falls_in_one_objective_and_rises_in_the_other() -> None:
    a, b = (
        Objective(500, weights={"d0": 1}),
        Objective(500, kind="worst", weights={"d1": 1, "d2": 1}),
    )
    front = pareto(FIT, a, b, points=8)
    assert len(front) == 8
    ours, theirs = [one.a_nats for one in front], [one.b_nats for one in front]
    assert ours == sorted(ours)
    assert theirs == sorted(theirs, reverse=True)
    assert ours[0] == pytest.approx(solve(FIT, a).objective_nats, abs=2e-3)
    assert theirs[-1] == pytest.approx(solve(FIT, b).objective_nats, abs=2e-3)
    surface, points = FIT.surface(500), 0.997 * grid(100) + 0.001
    losses = surface.losses(points)
    first, second = losses[:, 0], losses[:, 1:].max(axis=1)
    for one in front:  # no mixture of a grid is better in both
        assert not np.any((first < one.a_nats - 1e-6) & (second < one.b_nats - 1e-6))


def test_a_front_of_one_objective_with_itself_is_a_point() -> None:
    front = pareto(FIT, AT, AT, points=5)
    assert front[0].a_nats == pytest.approx(front[-1].a_nats, abs=1e-8)
    with pytest.raises(InvalidInput, match="2 ends"):
        pareto(FIT, AT, AT, points=1)
