"""Any convex law: as good as brute force, within a gap that is really one."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from mixlab.errors import InfeasibleConstraints, InvalidMixture, InvalidTable
from mixlab.laws import BIMIX
from mixlab.mixture import Mixture
from mixlab.solvers import (
    Constraints,
    Group,
    Linear,
    Near,
    Objective,
    Repetition,
    SolutionStatus,
    solve,
)
from mixlab.solvers.interior import bound_below, interior
from mixlab.solvers.mixing import solve_problem
from mixlab.solvers.problem import problem
from tests.solvers.made import grid, made, target, transfer_fit

TOKENS = {"d0": 2e8, "d1": 3e8, "d2": 5e9}
CAPPED = {"budget_tokens": 1e9, "tokens_available": TOKENS}
OBJECTIVES = [
    Objective(500),
    Objective(500, weights={"d0": 1, "d2": 3}),
    Objective(500, kind="worst"),
    Objective(500, kind="excess", reference_nats={"d0": 4.0, "d1": 3.0, "d2": 5.0}),
    Objective(500, risk=0),
    Objective(500, risk=0.7),
    Objective(500, kind="worst", risk=0.75),
    Objective(500, kind="worst", risk=0),
]
CONSTRAINTS: list[dict[str, Any]] = [
    {},
    {"upper": {"d0": 0.25}, "lower": {"d1": 0.3}},
    {**CAPPED, "max_epochs": 1.2},
    {**CAPPED, "repetition": Repetition(5.0)},
    {"groups": {"both": Group(["d0", "d1"], 0.7, 0.8)}},
    {"linear": [Linear({"d0": 1, "d1": -2}, lower=0.1)]},
    {"near": Near(Mixture({"d0": 0.2, "d1": 0.6, "d2": 0.2}), 0.05)},
]


def obeys(limits: Constraints, shares: np.ndarray) -> np.ndarray:
    """Written apart from the solver's own, (mixture,)."""
    names = ("d0", "d1", "d2")
    low, high = limits.bounds(names)
    fine = np.all((shares >= low - 1e-9) & (shares <= high + 1e-9), axis=1)
    for group in limits.groups.values():
        total = shares[:, [names.index(name) for name in group.domains]].sum(axis=1)
        fine &= (total >= group.lower - 1e-9) & (total <= group.upper + 1e-9)
    for one in limits.linear:
        total = shares @ [one.coefficients.get(name, 0.0) for name in names]
        fine &= (total >= one.lower - 1e-9) & (total <= one.upper + 1e-9)
    if limits.near:
        given = limits.near.mixture.shares(names)
        logs = np.log(np.maximum(shares, 1e-300) / given)
        fine &= (shares * logs).sum(axis=1) <= limits.near.kl_nats + 1e-9
    return np.asarray(fine)


@pytest.mark.parametrize("given", CONSTRAINTS, ids=lambda given: "-".join(given) or "free")
@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_nothing_on_a_grid_is_better_and_the_gap_is_no_lie(
    objective: Objective, given: dict[str, Any]
) -> None:
    fit = transfer_fit(3, replicates=16, spread=0.1)
    limits = Constraints(**given)
    found = problem(fit, [objective], limits)
    solution = solve_problem(found)
    assert solution.status is SolutionStatus.OPTIMAL
    assert solution.gap_nats is not None
    assert solution.gap_nats <= 1e-6
    shares = solution.mixture.shares()
    assert obeys(limits, shares[None, :])[0]
    points = grid()
    points = points[obeys(limits, points)]
    values = found.program.values(points)
    assert solution.objective_nats <= values.min() + solution.gap_nats + 1e-9
    assert solution.objective_nats == pytest.approx(float(found.program.values(shares[None])[0]))


@pytest.mark.parametrize("objective", [OBJECTIVES[0], OBJECTIVES[2], OBJECTIVES[5]], ids=str)
def test_the_bound_holds_at_points_that_are_no_optimum(objective: Objective) -> None:
    fit = transfer_fit(3, replicates=16, spread=0.1)
    program = problem(fit, [objective], Constraints()).program
    best = solve(fit, objective).objective_nats
    for shares in np.random.default_rng(0).dirichlet(np.ones(3), 8) * 0.99 + 0.01 / 3:
        assert bound_below(program, program.at(program.begin(shares))) <= best + 1e-9


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
@pytest.mark.parametrize("given", [{}, {"upper": {"d0": 0.3}}], ids=str)
def test_the_bound_is_no_higher_where_it_is_tight(
    objective: Objective, given: dict[str, Any]
) -> None:
    fit = transfer_fit(3, replicates=16, spread=0.1)
    found = problem(fit, [objective], Constraints(**given))
    best = solve_problem(found).objective_nats
    optimum = interior(found.program, found.start)
    assert best - 1e-6 <= bound_below(found.program, optimum.point) <= best + 1e-9


def test_values_over_replicates_are_what_they_say() -> None:
    fit = transfer_fit(3, replicates=10, spread=0.1)
    shares = np.array([[0.2, 0.3, 0.5]])
    surface = fit.surface(500)
    each = np.array([one.losses(shares)[0] for one in surface.replicates])
    means, worst = np.sort(each.mean(axis=1))[::-1], np.sort(each.max(axis=1))[::-1]

    def value(**more: Any) -> float:
        return problem(fit, [Objective(500, **more)], Constraints()).program.value(shares[0])

    assert value(risk=0) == pytest.approx(means.mean(), rel=1e-12)
    assert value(risk=0.8) == pytest.approx(means[:2].mean(), rel=1e-12)
    # 2.5 of the 10: two whole ones and half of the third.
    assert value(risk=0.75) == pytest.approx((means[:2].sum() + means[2] / 2) / 2.5, rel=1e-12)
    assert value(kind="worst", risk=0.9) == pytest.approx(worst[0], rel=1e-12)
    assert value(kind="worst") == pytest.approx(surface.losses(shares).max(), rel=1e-12)


def test_the_exact_way_and_the_general_one_agree() -> None:
    rng = np.random.default_rng(3)
    names = tuple(f"d{index}" for index in range(8))
    fit = made(
        {
            name: target(
                name, BIMIX, names,
                np.array([rng.uniform(5, 12), rng.uniform(0.02, 0.4), 0.35, rng.uniform(1, 3)]),
            )
            for name in names
        },
        names,
    )  # fmt: skip
    limits = Constraints(lower={"d0": 0.2}, upper={"d1": 0.05, "d2": 0.04})
    exact = solve(fit, Objective(500), limits)
    general = solve_problem(problem(fit, [Objective(500)], limits))
    assert general.objective_nats == pytest.approx(exact.objective_nats, abs=1e-9)
    np.testing.assert_allclose(general.mixture.shares(), exact.mixture.shares(), atol=1e-5)
    assert general.multiplier == pytest.approx(exact.multiplier, rel=1e-4)
    assert {(one.domain, one.bound) for one in general.active} == {
        (one.domain, one.bound) for one in exact.active
    }
    for ours, theirs in zip(general.active, exact.active, strict=True):
        assert ours.price_nats == pytest.approx(theirs.price_nats, rel=1e-3, abs=1e-6)


def test_another_method_finds_the_same() -> None:
    fit = transfer_fit(6, seed=4)
    solution = solve(fit, Objective(500), Constraints(upper={"d1": 0.1}))
    surface = fit.surface(500)
    shares = np.full(6, 1 / 6)
    for _ in range(10):  # it stops too early where shares are small
        shares = minimize(
            lambda r: float(surface.losses(r[None, :]).mean()),
            shares,
            jac=lambda r: surface.gradients(r).mean(axis=0),
            bounds=[(0.001, 0.1 if index == 1 else 1) for index in range(6)],
            constraints={"type": "eq", "fun": lambda r: r.sum() - 1, "jac": np.ones_like},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 300},
        ).x
    other = float(surface.losses(shares[None, :]).mean())
    assert solution.objective_nats == pytest.approx(other, abs=1e-6)
    np.testing.assert_allclose(solution.mixture.shares(), shares, atol=1e-3)


def test_equal_domains_get_equal_shares() -> None:
    names = tuple(f"d{index}" for index in range(5))
    law = transfer_fit(5).targets["d0"].law
    values = np.array([8, 0.2, 0.35, 1.9, 0.1, 0, 0, 0, 0])
    fit = made({name: target(name, law, names, values) for name in names}, names)
    for kind in ("mean", "worst"):
        found = solve(fit, Objective(500, kind=kind))
        np.testing.assert_allclose(found.mixture.shares(), 0.2, atol=1e-5)


def test_domains_that_are_the_same_to_all_make_the_optimum_not_unique() -> None:
    names = ("d0", "d1", "d2", "d3")
    law = transfer_fit(4).targets["d0"].law
    values = np.array([8, 0.2, 0.35, 1.9, 1.0, 0, 0, 0])
    twins = made(
        {"d0": target("d0", law, names, values), "d1": target("d1", law, names, values)}, names
    )
    assert solve(twins, Objective(500)).status is SolutionStatus.NOT_UNIQUE
    assert solve(transfer_fit(4), Objective(500)).status is SolutionStatus.OPTIMAL


@st.composite
def limits(draw: st.DrawFn, size: int) -> Constraints:
    """Constraints that a random mixture obeys, some of them just so."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    names = [f"d{index}" for index in range(size)]
    obeying = rng.dirichlet(np.full(size, draw(st.sampled_from([0.3, 1.0, 5.0]))))
    obeying = 0.9 * obeying + 0.1 / size
    room = draw(st.sampled_from([0.0, 1e-6, 0.05, 0.3]))
    picked = [name for name in names if rng.random() < 0.4]
    share = dict(zip(names, map(float, obeying), strict=True))
    grouped = [name for name in names if rng.random() < 0.5] or names[:1]
    total = sum(share[name] for name in grouped)
    weights = {name: float(rng.normal()) for name in names}
    value = sum(weights[name] * share[name] for name in names)
    return Constraints(
        lower={name: max(0.0, share[name] * (1 - room)) for name in picked[::2]},
        upper={name: min(1.0, share[name] * (1 + room)) for name in picked[1::2]},
        groups={"some": Group(grouped, max(0.0, total - room), min(1.0, total + room))}
        if draw(st.booleans())
        else {},
        linear=[Linear(weights, upper=value + room, name="sum")] if draw(st.booleans()) else [],
        near=Near(Mixture.of(names, obeying), 0.02 + room) if draw(st.booleans()) else None,
    )


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_random_problems_are_solved_to_the_gap(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 7))
    kind = data.draw(st.sampled_from(["mean", "mean", "worst"]))
    fit = transfer_fit(size, seed=data.draw(st.integers(0, 50)))
    given_limits = data.draw(limits(size))
    try:
        found = problem(fit, [Objective(500, kind=kind)], given_limits)
    except InfeasibleConstraints:
        return  # the small default bounds may not fit in
    solution = solve_problem(found)
    assert solution.gap_nats is not None
    assert solution.gap_nats <= 1e-6
    assert found.region.holds(solution.mixture.shares()[None, :], 1e-7)[0]
    assert all(one.price_nats >= 0 for one in solution.active)


def test_objectives_and_fits_that_can_not_be_solved_are_refused() -> None:
    fit = transfer_fit(3)
    with pytest.raises(InvalidTable, match="no fit of target 'd9'"):
        solve(fit, Objective(500, kind="worst", weights={"d9": 1}))
    with pytest.raises(InvalidTable, match="fit again with replicates"):
        solve(fit, Objective(500, risk=0.5))
    with pytest.raises(InvalidMixture, match="No reference loss is given for 'd1', 'd2'"):
        solve(fit, Objective(500, kind="excess", reference_nats={"d0": 3.0}))
    with pytest.raises(InvalidMixture, match="mean, worst or excess"):
        Objective(500, kind="best")  # type: ignore[arg-type]
    with pytest.raises(InvalidMixture, match="only it has them"):
        Objective(500, reference_nats={"d0": 3.0})
    with pytest.raises(InvalidMixture, match="only it has them"):
        Objective(500, kind="excess")
    with pytest.raises(InvalidMixture, match="losses are above 0"):
        Objective(500, kind="excess", reference_nats={"d0": float("nan")})
    for risk in (-0.1, 1.0, float("nan")):
        with pytest.raises(InvalidMixture, match="risk"):
            Objective(500, risk=risk)


def test_notes_say_where_size_leaves_the_evidence() -> None:
    fit = replace(transfer_fit(3), sizes_seen=(1e6, 1e8))
    notes = solve(fit, Objective(500, params=1e9)).notes
    assert any(
        "1e+09 parameters are outside those observed, 1e+06 to 1e+08" in note for note in notes
    )
