"""Laws of other authors, at values that they published; and the registry."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from mixlab.errors import UnknownLaw
from mixlab.laws import LAWS, Inputs, law
from mixlab.laws.table import table

# a, b, e, alpha = beta, R_D*, R_N* of arXiv 2305.16264, as its repository gives them.
CONSTRAINED = np.array(
    [*np.exp([0.6254804, 6.255414, 7.3049974]), 0.3526596, 0.3526596, 15.387756, 5.309743]
)


def runs(params: list[float], tokens: list[float], unique: list[float]) -> Inputs:
    return Inputs(
        np.zeros((len(params), 0)), np.array(tokens), None, np.array(params), np.array(unique)
    )


def test_data_constrained_gives_its_authors_losses() -> None:
    found = law("data_constrained").predict(
        CONSTRAINED, runs([6.34e9, 8.67e9], [242e9, 178e9], [25e9, 25e9])
    )
    np.testing.assert_allclose(found, [2.2256440889984477, 2.2269634075087867], rtol=1e-7)


def test_fresh_tokens_and_warranted_sizes_make_it_chinchilla() -> None:
    fresh = runs([1e8, 1e9], [100e9, 200e9], [100e9, 200e9])
    found = law("data_constrained").predict(CONSTRAINED, fresh)
    np.testing.assert_allclose(found, law("chinchilla").predict(CONSTRAINED[:5], fresh), rtol=1e-12)


def test_chinchilla_is_its_authors_formula() -> None:
    values = np.array([1.69, 406.4, 410.7, 0.34, 0.28])
    found = law("chinchilla").predict(values, runs([70e9], [1.4e12], [1.4e12]))
    np.testing.assert_allclose(found, 1.69 + 406.4 / 70e9**0.34 + 410.7 / 1.4e12**0.28)


def test_joint_without_deviations_is_additive() -> None:
    rng = np.random.default_rng(1)
    inputs = Inputs(
        rng.dirichlet(np.ones(3), 20), 10 ** rng.uniform(9, 11, 20), 0,
        10 ** rng.uniform(8, 10, 20), np.full(20, np.nan),
    )  # fmt: skip
    plain = law("additive").starts(inputs, 2 + inputs.proportions[:, 1])[0]
    joined = np.concatenate([plain, [0.3, 0.7], np.zeros(6)])
    np.testing.assert_allclose(
        law("joint").predict(joined, inputs), law("additive").predict(plain, inputs)
    )


def test_tilts_of_0_leave_bimix_transfer_and_a_leak_of_next_to_0_leaves_bimix() -> None:
    rng = np.random.default_rng(2)
    unknown = np.full(20, np.nan)
    inputs = Inputs(rng.dirichlet(np.ones(3), 20), np.linspace(1e2, 1e4, 20), 1, unknown, unknown)
    transfer = np.array([8.0, 0.2, 0.3, 1.9, 0.1, 0.4, -0.3])
    expected = law("bimix_transfer").predict(transfer, inputs)
    tilted = law("bimix_tilt").predict(np.concatenate([transfer, [0.0, 0.0]]), inputs)
    np.testing.assert_allclose(tilted, expected)
    transfer[4] = 1e-12
    np.testing.assert_allclose(
        law("bimix_transfer").predict(transfer, inputs),
        law("bimix").predict(transfer[:4], inputs), rtol=1e-9,
    )  # fmt: skip


def test_a_law_is_sought_by_name_and_the_nearest_is_proposed() -> None:
    assert all(law(name) is found and found.name == name for name, found in LAWS.items())
    with pytest.raises(UnknownLaw, match="Did you mean 'bimix_transfer'"):
        law("bimix_tranfer")


def test_the_table_tells_every_law() -> None:
    found = table()
    assert [row.name for row in found] == list(LAWS)
    assert all(row.formula and row.source and row.validity for row in found)
    by_name = {row.name: row for row in found}
    assert by_name["bimix"].parameters == "4"
    assert by_name["bimix_transfer"].parameters == "m + 4"
    assert not by_name["bimix_saturating_process"].convex
    json.dumps([asdict(row) for row in found])
