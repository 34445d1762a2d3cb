"""Laws that are not convex or have no slopes: honest status, feasible, and no worse than known."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mixlab.errors import InvalidTable
from mixlab.fitting import Fit
from mixlab.laws import Inputs
from mixlab.mixture import Mixture
from mixlab.solvers import Constraints, Near, Objective, SolutionStatus, regret, solve
from mixlab.solvers.problem import problem
from tests.solvers.made import grid, transfer_fit


class Waves:
    """A residual with several valleys, by the first two shares."""

    smooth = True

    def predict(self, inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
        r = inputs.proportions
        waves = 0.05 * np.sin(9 * r[:, 0]) * np.cos(7 * r[:, 1])
        return waves, np.zeros(len(r))

    def share_gradient(self, inputs: Inputs) -> np.ndarray:
        r = inputs.proportions
        slope = np.zeros_like(r)
        slope[:, 0] = 0.05 * 9 * np.cos(9 * r[:, 0]) * np.cos(7 * r[:, 1])
        slope[:, 1] = -0.05 * 7 * np.sin(9 * r[:, 0]) * np.sin(7 * r[:, 1])
        return slope


class Steps(Waves):
    """A residual like that of trees: it has values but no slopes."""

    smooth = False

    def predict(self, inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
        r = inputs.proportions
        return np.round(4 * r[:, 0]) * 0.02, np.zeros(len(r))


def bent(residual: Any, **more: Any) -> Fit:
    fit = transfer_fit(3, **more)
    targets = {name: replace(one, residual=residual) for name, one in fit.targets.items()}
    return replace(fit, targets=targets)


@pytest.mark.parametrize("given", [{}, {"near": Near(Mixture.uniform(["d0", "d1", "d2"]), 0.1)}])
@pytest.mark.parametrize("kind", ["mean", "worst"])
def test_several_searches_find_the_deepest_valley_and_say_local(kind: Any, given: Any) -> None:
    fit = bent(Waves())
    limits = Constraints(lower=dict.fromkeys(fit.domains, 0.02), **given)
    found = solve(fit, Objective(500, kind=kind), limits)
    assert (found.status, found.gap_nats) == (SolutionStatus.LOCAL, None)
    assert any("not convex" in note for note in found.notes)
    assert all("is worth about" in words for words in found.statements)
    program = problem(fit, [Objective(500, kind=kind)], limits)
    points = grid()
    points = points[program.region.holds(points)]
    assert found.objective_nats <= program.program.values(points).min() + 1e-3
    assert program.region.holds(found.mixture.shares()[None], 1e-6)[0]


def test_slopes_with_a_residual_are_those_of_the_losses() -> None:
    surface = bent(Waves()).surface(500)
    shares = np.array([0.3, 0.25, 0.45])
    for index in range(3):
        moved = shares.copy()
        moved[index] += 1e-7
        slope = (surface.losses(moved[None])[0] - surface.losses(shares[None])[0]) / 1e-7
        np.testing.assert_allclose(surface.gradients(shares)[:, index], slope, rtol=1e-5)


def test_laws_without_slopes_are_sampled_and_the_same_again() -> None:
    fit = bent(Steps())
    limits = Constraints(upper={"d0": 0.3})
    found = solve(fit, Objective(500), limits)
    assert (found.status, found.gap_nats) == (SolutionStatus.SAMPLED, None)
    assert found.mixture == solve(fit, Objective(500), limits).mixture
    assert found.mixture.proportions["d0"] <= 0.3
    even = fit.predict(Mixture.uniform(fit.domains), 500)
    assert found.objective_nats < np.mean(list(even.values()))
    json.dumps(found.to_dict(), allow_nan=False)
    with pytest.raises(InvalidTable, match="law with slopes"):
        regret(fit, Objective(500), limits, found)


def test_risk_is_searched_too() -> None:
    fit = bent(Waves(), replicates=8, spread=0.05)
    found = solve(fit, Objective(500, kind="worst", risk=0.5))
    assert found.status is SolutionStatus.LOCAL
    program = problem(fit, [Objective(500, kind="worst", risk=0.5)], Constraints()).program
    points = 0.99 * grid(30) + 0.01 / 3
    assert found.objective_nats <= program.values(points).min() + 5e-3


def test_where_shares_may_cross_the_share_floor_nothing_is_certified() -> None:
    fit = replace(transfer_fit(4, seed=3), share_floor=0.2)
    held = solve(fit, Objective(500), Constraints(lower={"d0": 0.3}))
    assert held.status is SolutionStatus.OPTIMAL
    crossed = solve(fit, Objective(500), Constraints(lower={"d0": 0.5}))
    assert crossed.status is SolutionStatus.LOCAL
    assert crossed.gap_nats is None
