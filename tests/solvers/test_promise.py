"""Gains over references: what is predicted, what choosing flatters, and what laws miss."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mixlab.fitting import Fit, HeldOut
from mixlab.laws import BIMIX
from mixlab.mixture import Mixture
from mixlab.solvers import Objective, Promise, promise, regret, solve
from tests.solvers.made import made, target, transfer_fit

MISFIT, QUANTILE = 0.01, 2.2
AT = Objective(500)
UNIFORM = Mixture.uniform(["d0", "d1", "d2"])


def with_misfit(fit: Fit, misfit: float) -> Fit:
    told = HeldOut(5, 20, 1.0, misfit, QUANTILE, None, 0.01)
    return replace(
        fit, targets={name: replace(one, heldout=told) for name, one in fit.targets.items()}
    )


FIT = with_misfit(transfer_fit(3, seed=1, replicates=60, spread=0.03), MISFIT)


def promised(fit: Fit, objective: Objective = AT, *, corrected: bool = True) -> Promise:
    found = solve(fit, objective)
    told = regret(fit, objective, None, found, draws=60) if corrected else None
    return promise(fit, objective, found.mixture, {"uniform": UNIFORM}, regret=told)


def test_a_gain_is_corrected_as_the_replicates_say() -> None:
    found = promised(FIT)
    gain = found.gains["uniform"]
    surface = FIT.surface(500)
    best = solve(FIT, AT).mixture.shares(FIT.domains)
    even = UNIFORM.shares(FIT.domains)

    def number(one: object, shares: np.ndarray) -> float:
        return float(one.losses(shares[None, :]).mean())  # type: ignore[attr-defined]

    assert gain.nats == pytest.approx(number(surface, even) - number(surface, best))
    optima = regret(FIT, AT, None, solve(FIT, AT), draws=60).replicate_optima
    flattered = [
        (number(one, even) - number(one, own)) - (number(surface, even) - number(surface, own))
        for one, own in zip(surface.replicates, optima, strict=True)
    ]
    assert gain.corrected_nats == pytest.approx(gain.nats - np.mean(flattered), abs=1e-7)
    assert np.mean(flattered) > 0
    spread = np.std([number(one, even) - number(one, best) for one in surface.replicates], ddof=1)
    missed = MISFIT * np.array([number(surface, even), number(surface, best)])
    half = QUANTILE * np.sqrt(spread**2 + (missed**2).sum())
    assert gain.corrected_nats is not None
    assert gain.high95 - gain.corrected_nats == pytest.approx(half)
    assert gain.corrected_nats - gain.low95 == pytest.approx(half)
    assert gain.sure == (gain.low95 > 0)
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_law_that_misses_more_promises_less_surely() -> None:
    little, much = promised(with_misfit(FIT, 0.001)), promised(with_misfit(FIT, 0.05))
    widths = [one.gains["uniform"].high95 - one.gains["uniform"].low95 for one in (little, much)]
    assert widths[1] > 3 * widths[0]
    assert much.high95 - much.low95 > 3 * (little.high95 - little.low95)
    assert little.gains["uniform"].nats == pytest.approx(much.gains["uniform"].nats)
    assert not much.gains["uniform"].sure


def test_the_objective_lies_between_that_of_the_intervals_ends() -> None:
    for kind in ("mean", "worst"):
        objective = Objective(500, weights={"d0": 1, "d2": 2}, kind=kind)
        found = promised(FIT, objective)
        ends = FIT.interval95(solve(FIT, objective).mixture, 500)
        low, high = ([ends["d0"][side], 2 * ends["d2"][side]] for side in (0, 1))
        over = (lambda pair: sum(pair) / 3) if kind == "mean" else max
        assert (found.low95, found.high95) == pytest.approx((over(low), over(high)))
        assert found.low95 < found.objective_nats < found.high95


def test_without_replicates_nothing_is_corrected_and_the_interval_is_wide() -> None:
    sure, plain = promised(FIT), promised(FIT, corrected=False)
    assert plain.gains["uniform"].corrected_nats is None
    assert plain.gains["uniform"].low95 < plain.gains["uniform"].nats
    assert sure.gains["uniform"].nats == plain.gains["uniform"].nats


def test_references_at_which_nothing_is_predicted_are_left_out() -> None:
    names = ("d0", "d1")
    values = np.array([8.0, 0.2, 0.35, 1.9])
    fit = made({name: target(name, BIMIX, names, values) for name in names}, names)
    others = {"one": Mixture({"d0": 1.0}), "strange": Mixture({"d0": 0.5, "news": 0.5}),
              "even": Mixture.uniform(list(names))}  # fmt: skip
    found = promise(fit, AT, Mixture({"d0": 0.4, "d1": 0.6}), others)
    assert set(found.gains) == {"even"}
    assert found.gains["even"].nats < 0


def test_intervals_too_wide_for_numbers_are_finite_all_the_same() -> None:
    told = HeldOut(3, 3, 1.0, MISFIT, 12.7, None, 50.0)
    targets = {name: replace(one, heldout=told) for name, one in FIT.targets.items()}
    found = promised(replace(FIT, targets=targets), Objective(1e8), corrected=False)
    assert found.low95 < 1e-100
    assert found.high95 > 1e100
    json.dumps(found.to_dict(), allow_nan=False)
