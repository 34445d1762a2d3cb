"""Solutions stay inside the shares that runs saw, as far as what was asked for lets them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mixlab.design import next_runs
from mixlab.errors import InfeasibleConstraints
from mixlab.fitting import fit as fitted
from mixlab.laws import BIMIX
from mixlab.mixture import Mixture
from mixlab.solvers import (
    Constraints,
    Group,
    Near,
    Objective,
    Solution,
    SolutionStatus,
    regret,
    solve,
)
from tests.solvers.made import grid, made, target, transfer_fit
from tests.synthetic import mixtures, observe

DOMAINS = ("d0", "d1", "d2")
SEEN = {"d0": (0.1, 0.3), "d1": (0.3, 0.6), "d2": (0.2, 0.45)}
FIT = transfer_fit(3, seed=1, shares_seen=SEEN, replicates=20)
AT = Objective(500)
INSIDE = Constraints(trust=1)


def powers(**more: Any) -> Any:
    values = [[8.0, 0.3, 0.35, 1.9], [8.0, 0.05, 0.35, 1.9], [8.0, 0.1, 0.35, 1.9]]
    targets = {
        name: target(name, BIMIX, DOMAINS, np.array(one))
        for name, one in zip(DOMAINS, values, strict=True)
    }
    return made(targets, DOMAINS, **{"shares_seen": SEEN, **more})


def held(solution: Solution) -> dict[tuple[str, str], float]:
    return {(one.domain, one.bound): one.price_nats for one in solution.active}


@pytest.mark.parametrize("fit", [FIT, powers()], ids=["general", "exact"])
@pytest.mark.parametrize("factor", [1.0, 1.3])
@pytest.mark.parametrize("kind", ["mean", "worst"])
def test_the_solution_is_the_best_of_all_mixtures_within_reach(
    fit: Any, factor: float, kind: Any
) -> None:
    objective = Objective(500, kind=kind)
    found = solve(fit, objective, Constraints(trust=factor))
    points = grid(400)
    low, high = np.array(list(SEEN.values())).T
    inside = (points >= low / factor - 1e-12) & (points <= high * factor + 1e-12)
    points = points[inside.all(axis=1)]
    losses = fit.surface(500).losses(points)
    brute = losses.mean(axis=1) if kind == "mean" else losses.max(axis=1)
    assert brute.min() - 3e-3 < found.objective_nats <= brute.min() + 1e-6
    assert found.status in (SolutionStatus.OPTIMAL, SolutionStatus.NOT_UNIQUE)
    for name, share in found.mixture:
        least, most = SEEN[name]
        assert least / factor - 1e-12 <= share <= most * factor + 1e-12


def test_a_factor_is_at_least_one_and_none_lifts_it() -> None:
    free = solve(FIT, AT, Constraints())
    assert any("outside the shares observed" in note for note in free.notes)
    assert not solve(FIT, AT, INSIDE).notes
    for wrong in (0.9, float("nan"), float("inf")):
        with pytest.raises(InfeasibleConstraints, match="at least 1"):
            Constraints(trust=wrong)


@pytest.mark.parametrize("fit", [FIT, powers()], ids=["general", "exact"])
def test_prices_are_what_seeing_more_would_gain(fit: Any) -> None:
    found = solve(fit, AT, INSIDE)
    dear = {key: price for key, price in held(found).items() if price > 1e-5}
    assert {bound for _, bound in dear} <= {"seen", "seen_lower"}
    assert dear
    for (name, bound), price in dear.items():
        least, most = SEEN[name]
        wider = (least - 1e-4, most) if bound == "seen_lower" else (least, most + 1e-4)
        other = solve(replace(fit, shares_seen={**SEEN, name: wider}), AT, INSIDE)
        gained = (found.objective_nats - other.objective_nats) / 1e-4
        assert price == pytest.approx(gained, rel=1e-2)
        said = next(one for one in found.prices if one.domain == name)
        word, way = ("least", "less") if bound == "seen_lower" else ("most", "more")
        end = least if bound == "seen_lower" else most
        assert said.statement == (
            f"{name} is held at {end:.3g}, the {word} that any run saw; one hundredth of share "
            f"{way} is worth at most {said.nats:.3g} nats by the law: make runs with {way} of it "
            "to find out"
        )
        assert said.nats == pytest.approx(price / 100)


def test_farther_bounds_say_how_far_they_are() -> None:
    found = solve(powers(), AT, Constraints(trust=1.1))
    assert any("1.1 times above what any run saw" in one for one in found.statements)


def test_bounds_that_were_asked_for_win_against_what_runs_saw() -> None:
    found = solve(FIT, AT, Constraints(trust=1, lower={"d0": 0.4}))
    assert found.mixture.proportions["d0"] == pytest.approx(0.4)
    assert any("d0 at least 0.4 is more than runs saw, 0.3 at most" in one for one in found.notes)
    low = solve(FIT, AT, Constraints(trust=1, upper={"d1": 0.26}))
    assert low.mixture.proportions["d1"] == pytest.approx(0.26)
    assert any(note.startswith("d1 at most 0.26 (upper bound) is less than") for note in low.notes)
    capped = solve(
        FIT, AT, Constraints(trust=1, budget_tokens=100.0, tokens_available={"d1": 6.5},
                             max_epochs=4, sequence_tokens=1),
    )  # fmt: skip
    assert capped.mixture.proportions["d1"] == pytest.approx(0.26)
    assert any("(4 epochs of" in note and "it wins" in note for note in capped.notes)


def test_bounds_within_what_runs_saw_bind_as_ever() -> None:
    found = solve(powers(), AT, Constraints(trust=1, upper={"d0": 0.2}))
    assert found.mixture.proportions["d0"] == pytest.approx(0.2)
    assert ("d0", "upper") in held(found)


@pytest.mark.parametrize(
    "more",
    [
        {"groups": {"g": Group(["d0", "d2"], upper=0.2)}},
        {"budget_tokens": 1e6, "tokens_available": {"d1": 8.75e4, "d2": 5e4}, "max_epochs": 4},
        {"near": Near(Mixture({"d0": 0.9, "d1": 0.05, "d2": 0.05}), 0.01)},
    ],
    ids=["group", "epochs", "near"],
)
def test_trust_gives_way_where_it_leaves_no_mixture(more: dict[str, Any]) -> None:
    found = solve(FIT, AT, Constraints(trust=1, **more))
    note = next(one for one in found.notes if "leave no mixture" in one)
    factor = float(note.split("factor of ")[1].split()[0])
    assert factor > 1
    assert np.isclose(sum(dict(found.mixture).values()), 1)
    # What stays is still a range: no share leaves it.
    for name, share in found.mixture:
        assert share <= SEEN[name][1] * factor * 1.01
    free = solve(FIT, AT, Constraints(**more))
    assert free.objective_nats <= found.objective_nats + 1e-9


def test_what_is_infeasible_without_trust_is_so_with_it() -> None:
    with pytest.raises(InfeasibleConstraints, match=r"ask for 1\.1 in all"):
        solve(FIT, AT, Constraints(trust=1, lower={"d0": 0.6, "d1": 0.5}))


def test_a_domain_that_no_run_had_gets_nothing() -> None:
    seen = {name: ends for name, ends in SEEN.items() if name != "d0"}
    fit = transfer_fit(3, shares_seen={**seen, "d2": (0.2, 0.6)})
    assert solve(fit, AT, INSIDE).mixture.proportions["d0"] == 0
    alone = transfer_fit(3, shares_seen={})
    assert any("they bind none" in note for note in solve(alone, AT, INSIDE).notes)


def test_what_replicates_say_stays_inside_too() -> None:
    solution = solve(FIT, AT, INSIDE)
    found = regret(FIT, AT, INSIDE, solution, draws=120)
    low, high = np.array(list(SEEN.values())).T
    assert np.all(found.replicate_optima >= low - 1e-6)
    assert np.all(found.replicate_optima <= high + 1e-6)
    for name, (least, most) in found.region.items():
        assert SEEN[name][0] - 1e-6 <= least <= most <= SEEN[name][1] + 1e-6
    near = regret(FIT, AT, None, solve(FIT, AT), draws=120)
    assert near.optimism_nats >= found.optimism_nats


def test_next_runs_go_where_the_solution_may_not_yet() -> None:
    seen = observe(mixtures(3, 8), noise=0.002)
    fit = fitted(BIMIX, seen, profiles=False)
    objective = Objective(500, weights={"d0": 20, "d1": 1})
    found = next_runs(fit, seen, objective, INSIDE, count=4)
    ends = fit.shares_seen
    assert dict(found.solution)["d0"] <= ends["d0"][1] + 1e-9
    for one in found.mixtures.values():
        assert all(share <= 2 * ends[name][1] + 1e-9 for name, share in one)
        assert all(share >= ends[name][0] / 2 - 1e-9 for name, share in one)
    assert any(dict(one)["d0"] > ends["d0"][1] for one in found.mixtures.values())
