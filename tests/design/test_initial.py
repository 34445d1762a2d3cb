"""Designs are distinct, obey the floor, repeat exactly, and tell exponents well."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlab.design import design_mixtures, floored
from mixlab.errors import InvalidMixture, TooFewMixtures
from mixlab.mixture import Mixture

NATURAL = Mixture({"code": 0.5, "law": 0.2, "web": 0.2, "mail": 0.06, "talk": 0.03, "math": 0.01})
ENTROPY = Mixture.of(NATURAL.domains, [0.1, 0.1, 0.25, 0.2, 0.3, 0.05])


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 20), st.integers(0, 1000), st.sampled_from([0.0, 0.01, 0.03, 0.1]))
def test_designs_obey_floor_and_sum_and_are_distinct(count: int, seed: int, floor: float) -> None:
    design = design_mixtures(NATURAL, ENTROPY, count=count, floor=floor, seed=seed)
    shares = np.array([mixture.shares(NATURAL.domains) for mixture in design.values()])
    assert list(design)[:3] == ["natural", "uniform", "conditional_entropy"]
    assert len(design) == count
    assert shares.min() >= floor - 1e-12
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-12)
    logs = np.log(shares)
    gaps = np.linalg.norm(logs[:, None] - logs[None], axis=2)[~np.eye(count, dtype=bool)]
    assert gaps.min() > 0.01


def test_the_same_seed_gives_the_same_design_and_another_another() -> None:
    first = design_mixtures(NATURAL, ENTROPY, count=10, seed=3)
    assert first == design_mixtures(NATURAL, ENTROPY, count=10, seed=3)
    assert first["design-01"] != design_mixtures(NATURAL, ENTROPY, count=10, seed=4)["design-01"]
    assert list(first)[3:] == [f"design-{number:02d}" for number in range(1, 8)]


def test_log_shares_spread_enough_to_tell_an_exponent() -> None:
    """With losses good to 0.5 % an exponent is then known to 0.005, where it is 0.03 to 0.13."""
    design = design_mixtures(NATURAL, ENTROPY, count=14)
    logs = np.log([mixture.shares() for mixture in design.values()])
    error = 0.005 / np.linalg.norm(logs - logs.mean(axis=0), axis=0)
    assert error.max() < 0.005


def test_designed_mixtures_lie_farther_apart_than_candidates_drawn_at_random() -> None:
    def least_gap(points: list[np.ndarray]) -> float:
        logs = np.log(points)
        gaps = np.linalg.norm(logs[:, None] - logs[None], axis=2)
        return float(gaps[~np.eye(len(points), dtype=bool)].min())

    design = design_mixtures(NATURAL, ENTROPY, count=14)
    drawn = [m.shares() for m in design_mixtures(NATURAL, ENTROPY, count=60, seed=1).values()]
    rng = np.random.default_rng(0)
    random = [least_gap(list(rng.permutation(drawn)[:14])) for _ in range(200)]
    # Even those were chosen to lie apart; fourteen chosen as such lie farther.
    assert least_gap([mixture.shares() for mixture in design.values()]) > np.quantile(random, 0.99)


def test_a_natural_mixture_above_the_floor_stays_as_it_is() -> None:
    design = design_mixtures(NATURAL, ENTROPY, count=4, floor=0.01)
    assert design["natural"].shares() == pytest.approx(NATURAL.shares())


def test_floored_raises_the_small_and_lowers_the_rest_in_proportion() -> None:
    found = floored(np.array([0.7, 0.28, 0.02]), 0.1)
    assert found == pytest.approx([0.9 * 0.7 / 0.98, 0.9 * 0.28 / 0.98, 0.1])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), st.floats(0, 0.15), st.floats(0.25, 1), st.floats(0.2, 1))
def test_designs_obey_floors_and_caps_of_single_domains(
    seed: int, law: float, code: float, web: float
) -> None:
    design = design_mixtures(
        NATURAL, ENTROPY, count=8, floor={"law": law, "math": 0.02},
        upper={"code": code, "web": web}, seed=seed,
    )  # fmt: skip
    shares = np.array([mixture.shares(NATURAL.domains) for mixture in design.values()])
    assert shares[:, 1].min() >= law - 1e-12
    assert shares[:, 5].min() >= 0.02 - 1e-12
    assert shares[:, 0].max() <= code + 1e-12
    assert shares[:, 2].max() <= web + 1e-12
    assert shares.min() >= 0.01
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-12)


def test_bounds_that_contradict_each_other_are_an_error() -> None:
    with pytest.raises(InvalidMixture, match=r"caps of 0\.6 in all leave no room"):
        design_mixtures(NATURAL, ENTROPY, count=4, upper=dict.fromkeys(NATURAL.domains, 0.1))
    with pytest.raises(InvalidMixture, match="no floor lie above its cap"):
        design_mixtures(NATURAL, ENTROPY, count=4, floor={"web": 0.5}, upper={"web": 0.4})
    with pytest.raises(InvalidMixture, match=r"cap of 'talkk' is 0\.4; .* code, law"):
        design_mixtures(NATURAL, ENTROPY, count=4, upper={"talkk": 0.4})
    with pytest.raises(InvalidMixture, match="floor of 'web' is nan"):
        design_mixtures(NATURAL, ENTROPY, count=4, floor={"web": float("nan")})


def test_domains_of_equal_size_do_not_repeat_the_uniform_mixture() -> None:
    design = design_mixtures(Mixture.uniform(NATURAL.domains), ENTROPY, count=5)
    assert list(design) == ["uniform", "conditional_entropy", "design-01", "design-02", "design-03"]


def test_what_can_not_be_designed_is_an_error() -> None:
    with pytest.raises(TooFewMixtures, match=r"at least 3 mixtures.*not 2"):
        design_mixtures(NATURAL, ENTROPY, count=2)
    with pytest.raises(InvalidMixture, match=r"floor of 0.2 for each of 6.*below 0.1667"):
        design_mixtures(NATURAL, ENTROPY, count=5, floor=0.2)
    with pytest.raises(InvalidMixture, match="must be the same"):
        design_mixtures(NATURAL, Mixture.uniform(["code", "law"]), count=5)
    with pytest.raises(InvalidMixture, match="nothing to mix"):
        design_mixtures(Mixture({"code": 1.0}), Mixture({"code": 1.0}), count=5)
    holey = Mixture({"code": 1.0, "law": 0.0})
    with pytest.raises(InvalidMixture, match="share of 0"):
        design_mixtures(holey, Mixture.uniform(holey.domains), count=5, floor=0.0)


def test_a_floor_that_leaves_no_room_for_so_many_mixtures_is_an_error() -> None:
    two = Mixture.uniform(["code", "law"])
    with pytest.raises(InvalidMixture, match=r"only \d+ mixtures .*lower the floor"):
        design_mixtures(two, two, count=6, floor=0.4999)


def test_a_thousand_mixtures_of_many_domains_can_be_designed() -> None:
    names = [f"d{index}" for index in range(50)]
    natural = Mixture.of(names, np.linspace(1, 9, 50))
    assert len(design_mixtures(natural, natural, count=1000, floor=0.001)) == 1000
