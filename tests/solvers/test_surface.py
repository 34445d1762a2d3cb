"""What solvers see of a fit is the fit."""

from dataclasses import replace

import numpy as np
import pytest

from mixlab.errors import InvalidBudget, InvalidTable
from mixlab.laws import BIMIX
from mixlab.mixture import Mixture
from mixlab.solvers import Objective, SolutionStatus, solve
from tests.solvers.made import made, target, transfer_fit


def test_losses_are_the_fits_own_and_slopes_theirs() -> None:
    fit = transfer_fit(4, 6)
    surface = fit.surface(500)
    assert (surface.targets, surface.convex, surface.smooth) == (tuple(fit.targets), True, True)
    shares = np.array([0.1, 0.2, 0.3, 0.4])
    predicted = fit.predict(Mixture.of(fit.domains, shares), 500)
    np.testing.assert_allclose(surface.losses(shares[None])[0], list(predicted.values()))
    weights = np.arange(6.0)
    rows = np.vstack([shares, shares[::-1]])
    for row, found in zip(rows, surface.weighted_gradients(rows, weights), strict=True):
        np.testing.assert_allclose(found, weights @ surface.gradients(row), rtol=1e-12)


def test_replicates_one_by_one_are_those_at_once() -> None:
    surface = transfer_fit(3, replicates=5).surface(500)
    shares = np.array([[0.1, 0.3, 0.6], [0.3, 0.3, 0.4]])
    assert surface.stacked is not None
    at_once = surface.stacked.losses(shares)
    assert at_once.shape == (5, 2, 3)
    for one, theirs in zip(surface.replicates, at_once, strict=True):
        np.testing.assert_allclose(one.losses(shares), theirs, rtol=1e-13)
    weights = np.random.default_rng(0).random((5, 3))
    summed = sum(
        one.weighted_gradients(shares, weight)
        for one, weight in zip(surface.replicates, weights, strict=True)
    )
    np.testing.assert_allclose(surface.stacked.weighted_gradients(shares, weights), summed)
    assert transfer_fit(3).surface(500).replicates == ()


def test_below_the_share_floor_nothing_changes_and_no_solution_goes_there() -> None:
    names = ("d0", "d1", "d2")
    values = np.array([8.0, 0.1, 0.35, 1.9])
    fit = made(
        {name: target(name, BIMIX, names, values) for name in names}, names, share_floor=0.02
    )
    surface = fit.surface(500)
    at, below = np.array([[0.02, 0.4, 0.58]]), np.array([[0.0, 0.4, 0.58]])
    np.testing.assert_array_equal(surface.losses(at), surface.losses(below))
    assert not surface.gradients(below[0])[:, 0].any()
    found = solve(fit, Objective(500, weights={"d0": 1}))
    assert min(found.mixture.proportions.values()) == pytest.approx(0.02)
    assert found.status is SolutionStatus.OPTIMAL


def test_steps_sizes_and_targets_that_are_none_are_refused() -> None:
    fit = transfer_fit(3)
    for step in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InvalidBudget, match="step"):
            fit.surface(step)
    for params in (0.0, -5.0, float("nan")):
        with pytest.raises(InvalidBudget, match="parameters"):
            fit.surface(500, params=params)
        with pytest.raises(InvalidBudget, match="parameters"):
            Objective(500, params=params)
    with pytest.raises(InvalidTable, match="'d9'"):
        fit.surface(500).only(["d9"])


def test_a_law_that_sees_sizes_needs_one_and_takes_the_only_one() -> None:
    sized = replace(transfer_fit(1).targets["d0"].law, needs_params=True)
    one = transfer_fit(3)
    targets = {name: replace(found, law=sized) for name, found in one.targets.items()}
    fit = replace(one, targets=targets, sizes_seen=(1e6, 1e8))
    with pytest.raises(InvalidBudget, match="give params"):
        fit.surface(500)
    assert fit.surface(500, params=2e8).params == 2e8
    assert replace(fit, sizes_seen=(1e6, 1e6)).surface(500).params == 1e6


def test_a_law_that_sees_no_mixture_can_not_be_solved() -> None:
    one = transfer_fit(3)
    blind = replace(one.targets["d0"].law, needs_mixture=False)
    targets = {name: replace(found, law=blind) for name, found in one.targets.items()}
    with pytest.raises(InvalidTable, match="doesn't see the mixture"):
        solve(replace(one, targets=targets), Objective(500))
