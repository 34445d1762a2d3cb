"""Parameters that a source gives are held, and a valley that the rows can't tell is an interval."""

import numpy as np
import pytest

from mixlab.errors import InvalidTable
from mixlab.fitting import Robust, fit
from mixlab.laws import LAWS, Inputs
from mixlab.runs import Observations

SOURCE = {"E": 1.87, "A": 521.0, "B": 1488.0, "alpha": 0.353, "beta": 0.353}
STARS = (15.0, 5.0)


def repeated(noise: float) -> Observations:
    """Runs of several sizes that read their data up to 40 times."""
    sizes, unique, epochs = np.meshgrid([2e8, 1e9, 4e9], [1e9, 4e9, 16e9], [1, 2, 4, 10, 40])
    params, data, tokens = sizes.ravel(), unique.ravel(), (unique * epochs).ravel()
    count = len(params)
    law = LAWS["data_constrained"]
    inputs = Inputs(np.zeros((count, 0)), tokens, None, params, data)
    losses = law.predict(np.array([*SOURCE.values(), *STARS]), inputs)
    losses = losses * np.exp(noise * np.random.default_rng(0).normal(size=count))
    runs = tuple(f"run-{index}" for index in range(count))
    return Observations(
        runs, (), ("c4",), np.zeros((count, 0)), tokens, tokens, losses[:, None], params, data
    )


def test_the_held_keep_their_values_and_the_others_are_found() -> None:
    found = fit(LAWS["data_constrained"], repeated(0.0), held=SOURCE).target("c4")
    assert {name: found.parameters[name] for name in SOURCE} == pytest.approx(SOURCE)
    assert (found.parameters["r_d_star"], found.parameters["r_n_star"]) == pytest.approx(
        STARS, rel=1e-3
    )
    assert found.standard_errors["A"] is None


def test_a_flat_valley_is_a_wide_interval_that_holds_the_truth() -> None:
    found = fit(LAWS["data_constrained"], repeated(0.02), held=SOURCE, robust=Robust("huber", 1e-3))
    for name, truth in zip(("r_d_star", "r_n_star"), STARS, strict=True):
        low, high = found.target("c4").interval95[name] or (np.inf, 0.0)
        assert low < truth < high
    low, high = found.target("c4").interval95["r_d_star"] or (1.0, 1.0)
    assert high / low > 1.5


def test_what_can_not_be_held_is_an_error() -> None:
    with pytest.raises(InvalidTable, match="no parameter 'C' to hold; it has E, A"):
        fit(LAWS["data_constrained"], repeated(0.0), held={"C": 1.0})
    with pytest.raises(InvalidTable, match=r"alpha can't be held at -1.*between"):
        fit(LAWS["data_constrained"], repeated(0.0), held={"alpha": -1.0})
