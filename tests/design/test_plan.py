"""Plans keep to the budget, run most mixtures small, and repeat those that tell most of size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlab.design import Size, filling_mixtures, plan_runs
from mixlab.errors import InvalidBudget, TooFewMixtures
from mixlab.fitting import fit
from mixlab.laws import BIMIX
from mixlab.mixture import Mixture
from tests.synthetic import observe

NAMES = ("d0", "d1", "d2")
MIXTURES = filling_mixtures(NAMES, count=20)
SIZES = (Size(60e6, 1.2e9), Size(10e6, 0.2e9), Size(200e6, 4e9))


@settings(max_examples=30, deadline=None)
@given(st.floats(1.1e19, 1e21), st.integers(2, 9))
def test_plans_keep_to_the_budget_and_most_runs_are_small(budget: float, repeated: int) -> None:
    plan = plan_runs(MIXTURES, SIZES, budget_flops=budget, repeated=repeated)
    assert plan.flops <= budget * (1 + 1e-9)
    by_size = {size: [r.label for r in plan.runs if r.size == size] for size in SIZES}
    small, middle, large = by_size[SIZES[1]], by_size[SIZES[0]], by_size[SIZES[2]]
    assert middle == large
    assert 2 <= len(large) <= repeated
    assert set(large) <= set(small)
    assert len(small) >= min(20, len(large))


def test_a_run_costs_six_flops_per_parameter_and_token() -> None:
    plan = plan_runs(MIXTURES, [Size(1e6, 1e7)], budget_flops=6e13 * 3.5)
    assert plan.flops == pytest.approx(3 * 6e13)
    assert plan.runs[0].to_dict()["flops"] == pytest.approx(6e13)
    assert plan.notes == (
        "the budget pays for 3 of 20 mixtures at 1e+06 parameters",
        "one size tells nothing of larger ones; add one to foresee them",
    )


def test_the_repeated_mixtures_lie_apart_in_predicted_loss() -> None:
    truth = np.array([[8.0, 0.3, 0.35, 1.9], [8.0, 1e-3, 0.35, 1.9], [8.0, 1e-3, 0.35, 1.9]])
    rows = np.array([mixture.shares(NAMES) for mixture in MIXTURES.values()])
    found = fit(BIMIX, observe(rows, truth=truth, steps=(1000,), run_noise=1e-3), profiles=False)
    plan = plan_runs(MIXTURES, SIZES[:2], budget_flops=1e19, repeated=3, fit=found)
    repeated = [run.mixture for run in plan.runs if run.size == SIZES[0]]
    first = [mixture.proportions["d0"] for mixture in repeated]
    everywhere = rows[:, 0]
    # Only d0's share matters here: its greatest has the least loss, its least the greatest.
    assert first[0] == pytest.approx(everywhere.max())
    assert first[1] == pytest.approx(everywhere.min())
    assert everywhere.min() < first[2] < everywhere.max()


def test_what_can_not_be_planned_is_an_error() -> None:
    with pytest.raises(InvalidBudget, match=r"don't pay for 2 mixtures at every size, which cost"):
        plan_runs(MIXTURES, SIZES, budget_flops=1e18)
    with pytest.raises(InvalidBudget, match="must be above 0, not nan"):
        plan_runs(MIXTURES, SIZES, budget_flops=float("nan"))
    with pytest.raises(InvalidBudget, match="tokens must be above 0, not 0"):
        Size(1e6, 0)
    with pytest.raises(InvalidBudget, match=r"given were 1e\+06, 1e\+06"):
        plan_runs(MIXTURES, [Size(1e6, 1e8), Size(1e6, 1e9)], budget_flops=1e20)
    with pytest.raises(InvalidBudget, match="given were none"):
        plan_runs(MIXTURES, [], budget_flops=1e20)
    with pytest.raises(TooFewMixtures, match="at least 2 mixtures, not 1"):
        plan_runs({"one": Mixture.uniform(NAMES)}, SIZES, budget_flops=1e20)
    with pytest.raises(TooFewMixtures, match="must be repeated at larger sizes, not 1"):
        plan_runs(MIXTURES, SIZES, budget_flops=1e20, repeated=1)
