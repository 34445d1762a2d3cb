"""`mixlab.fit` and its kin: any kind of table in, matched by name."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mixlab
from mixlab.errors import InvalidBudget, InvalidMixture, InvalidTable, UnknownLaw
from mixlab.fitting import Fit
from mixlab.laws import AUTO, LAWS, minimum_mixtures
from mixlab.runs import Observations
from mixlab.shortcuts import observations_of
from mixlab.tables import to_rows, write_table
from tests.synthetic import mixtures, observe


@pytest.fixture(scope="module")
def seen() -> Observations:
    return observe(mixtures(3, 8), noise=0.002)


@pytest.fixture(scope="module")
def found(seen: Observations) -> Fit:
    return mixlab.fit(seen, "bimix")


def test_tables_of_every_kind_hold_the_same(seen: Observations, tmp_path: Path) -> None:
    write_table(seen, tmp_path / "runs.csv")
    kinds = [
        tmp_path / "runs.csv", str(tmp_path / "runs.csv"), to_rows(seen),
        pd.read_csv(tmp_path / "runs.csv"), seen,
    ]  # fmt: skip
    for kind in kinds:
        read = observations_of(kind)
        np.testing.assert_array_equal(read.proportions, seen.proportions)
        np.testing.assert_array_equal(read.losses_nats, seen.losses_nats)
    with pytest.raises(InvalidTable, match="not int"):
        mixlab.fit(3)


def test_a_frames_nan_is_a_loss_that_was_not_measured(seen: Observations) -> None:
    frame = pd.DataFrame(to_rows(seen))
    frame.loc[0, "loss.d1"] = np.nan
    assert np.isnan(observations_of(frame).losses_nats[0, 1])
    frame.loc[0, "mixture.d1"] = np.nan
    with pytest.raises(InvalidTable, match="blank"):
        observations_of(frame)


def test_what_is_solved_is_what_is_predicted(found: Fit) -> None:
    solution = mixlab.solve(found, budget_tokens=4_096_000, upper={"d0": 0.2})
    assert solution.mixture.proportions["d0"] == pytest.approx(0.2)
    assert solution.step == 1000
    predicted = mixlab.predict(found, solution.mixture, budget_tokens=4_096_000)
    for name, one in predicted.items():
        assert one.low95 < one.nats < one.high95
        assert one.nats == pytest.approx(solution.predicted_nats[name])
    assert mixlab.predict(found, dict(solution.mixture.proportions)).keys() == predicted.keys()


def test_the_order_of_domains_in_a_table_changes_nothing(seen: Observations, found: Fit) -> None:
    turned = replace(seen, domains=seen.domains[::-1], proportions=seen.proportions[:, ::-1])
    other = mixlab.fit(turned, "bimix")
    one, two = (dict(mixlab.solve(fit, step=2000).mixture.proportions) for fit in (found, other))
    assert two == pytest.approx(one, abs=1e-9)


def test_what_cannot_be_asked_is_refused(seen: Observations, found: Fit) -> None:
    with pytest.raises(UnknownLaw):
        mixlab.fit(seen, "newton")
    with pytest.raises(InvalidMixture, match="poems"):
        mixlab.predict(found, {"d0": 0.5, "poems": 0.5})
    with pytest.raises(InvalidBudget):
        mixlab.predict(found, {"d0": 1.0}, step=-1)
    with pytest.raises(TypeError, match="lowest"):
        mixlab.solve(found, lowest={"d0": 0.1})
    assert not hasattr(mixlab, "nothing")


def test_runs_are_proposed_first_and_next(seen: Observations, found: Fit) -> None:
    first = mixlab.first_runs(["code", "web"], count=4, lower={"code": 0.3})
    assert len(first) == 4
    assert all(one.proportions["code"] >= 0.3 - 1e-9 for one in first.values())
    following = mixlab.next_runs(found, seen, count=2, upper={"d0": 0.5})
    assert len(following.mixtures) == 2
    assert all(one.proportions["d0"] <= 0.5 + 1e-9 for one in following.mixtures.values())
    assert following.expected_regret_after_nats <= following.expected_regret_nats


def test_auto_needs_no_more_mixtures_than_the_simplest_law() -> None:
    assert minimum_mixtures("bimix") == LAWS["bimix"].minimum_mixtures
    assert minimum_mixtures(AUTO) == LAWS["bimix"].minimum_mixtures


def test_the_package_alone_loads_nothing_heavy() -> None:
    told = "import sys, mixlab; print(*{'scipy', 'pandas', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_misspelt_aims_repeated_columns_and_odd_replicates_are_refused() -> None:
    rows = to_rows(observe(mixtures(3, 6)))
    found = mixlab.fit(rows, law="bimix", profiles=False)
    with pytest.raises(TypeError, match="no wieghts; there are"):
        mixlab.solve(found, objective={"wieghts": {"d0": 1}})
    frame = pd.DataFrame(rows)
    with pytest.raises(InvalidTable, match=r"loss\.d0 more than once"):
        mixlab.fit(pd.concat([frame, frame[["loss.d0"]]], axis=1), law="bimix")
    for replicates in (-1, 2.5):
        with pytest.raises(ValueError, match="at least 0, not"):
            mixlab.fit(rows, law="bimix", replicates=replicates)
