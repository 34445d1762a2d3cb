"""Filling designs obey every constraint, lie far apart, and say where there is no room."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlab.design import filling_mixtures
from mixlab.errors import InfeasibleConstraints, InvalidMixture, TooFewMixtures
from mixlab.mixture import Mixture
from mixlab.solvers import Constraints, Group, Near

NAMES = ("code", "law", "web", "mail")


def shares(design: dict[str, Mixture]) -> np.ndarray:
    return np.array([mixture.shares(NAMES) for mixture in design.values()])


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 30), st.integers(0, 99), st.floats(0, 0.2), st.floats(0.3, 1))
def test_designs_obey_floors_and_caps(count: int, seed: int, floor: float, cap: float) -> None:
    bounds = Constraints(lower={"law": floor, "web": floor / 2}, upper={"code": cap, "mail": cap})
    found = shares(filling_mixtures(NAMES, count=count, constraints=bounds, seed=seed))
    low, high = bounds.bounds(NAMES)
    assert found.shape == (count, 4)
    assert np.all(found >= low - 1e-9)
    assert np.all(found <= high + 1e-9)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-12)


def test_designs_obey_groups_and_nearness() -> None:
    natural = Mixture.of(NAMES, [0.4, 0.3, 0.2, 0.1])
    bounds = Constraints(groups={"text": Group(("law", "mail"), 0.5, 0.6)}, near=Near(natural, 0.1))
    found = shares(filling_mixtures(NAMES, count=12, constraints=bounds))
    text = found[:, 1] + found[:, 3]
    assert np.all((text > 0.5 - 1e-9) & (text < 0.6 + 1e-9))
    assert np.all(np.sum(found * np.log(found / natural.shares()), axis=1) <= 0.1 + 1e-9)


def test_designs_lie_farther_apart_than_even_draws() -> None:
    def least_gap(found: np.ndarray) -> float:
        gaps = np.linalg.norm(np.sqrt(found)[:, None] - np.sqrt(found)[None], axis=2)
        return float(gaps[~np.eye(len(found), dtype=bool)].min())

    rng = np.random.default_rng(0)
    even = [least_gap(rng.dirichlet(np.ones(4), 12)) for _ in range(100)]
    assert least_gap(shares(filling_mixtures(NAMES, count=12))) > max(even)


def test_the_same_arguments_give_the_same_design_and_what_is_taken_is_kept_away_from() -> None:
    first = filling_mixtures(NAMES, count=6, seed=2)
    assert first == filling_mixtures(NAMES, count=6, seed=2)
    assert first != filling_mixtures(NAMES, count=6, seed=3)
    more = filling_mixtures(NAMES, count=6, taken=tuple(first.values()), seed=2)
    gaps = np.linalg.norm(np.sqrt(shares(first))[:, None] - np.sqrt(shares(more))[None], axis=2)
    assert gaps.min() > 0.1
    assert list(first) == [f"design-{number:02d}" for number in range(1, 7)]


def test_what_can_not_be_designed_is_an_error() -> None:
    with pytest.raises(InvalidMixture, match="at least 2 domains"):
        filling_mixtures(["code"], count=3)
    with pytest.raises(InvalidMixture, match="names of their own"):
        filling_mixtures(["code", "code"], count=3)
    with pytest.raises(TooFewMixtures, match="at least 1 mixture, not 0"):
        filling_mixtures(NAMES, count=0)
    with pytest.raises(InfeasibleConstraints, match=r"1\.2 in all, more than 1"):
        filling_mixtures(NAMES, count=3, constraints=Constraints(lower=dict.fromkeys(NAMES, 0.3)))
    tight = Constraints(lower=dict.fromkeys(NAMES, 0.2499))
    with pytest.raises(InvalidMixture, match=r"only 1 new mixtures.*widen the bounds"):
        filling_mixtures(NAMES, count=3, constraints=tight)
    with pytest.raises(InvalidMixture, match=r"'talk'; the domains are code"):
        filling_mixtures(NAMES, count=3, taken=[Mixture({"talk": 1.0})])


def test_a_shorter_reach_leaves_the_ends_alone() -> None:
    wide, near = (
        np.array([one.shares(NAMES) for one in filling_mixtures(NAMES, count=9, reach=r).values()])
        for r in (1.0, 0.5)
    )
    assert np.ptp(near, axis=0).max() < 0.6 * np.ptp(wide, axis=0).max()
    np.testing.assert_allclose(near.sum(axis=1), 1.0)
