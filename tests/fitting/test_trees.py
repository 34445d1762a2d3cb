"""Trees on log residuals: deterministic, JSON, and a plain word where LightGBM is missing."""

import json
import sys

import numpy as np
import pytest

from mixlab.errors import MissingExtra
from mixlab.fitting.trees import Trees, fit_trees
from mixlab.laws import Inputs


def inputs(rows: int, seed: int = 0) -> Inputs:
    shares = np.random.default_rng(seed).dirichlet(np.ones(4), size=rows)
    unknown = np.full(rows, np.nan)
    return Inputs(shares, np.full(rows, 1000.0), 0, unknown, unknown)


def step_function(seen: Inputs) -> np.ndarray:
    return np.where(seen.proportions[:, 0] > 0.3, 0.1, -0.1)


def test_trees_learn_a_step_that_no_smooth_law_has() -> None:
    pytest.importorskip("lightgbm")
    seen, fresh = inputs(200), inputs(100, seed=1)
    mean, sd = fit_trees(seen, step_function(seen)).predict(fresh)
    clear = np.abs(fresh.proportions[:, 0] - 0.3) > 0.03
    np.testing.assert_allclose(mean[clear], step_function(fresh)[clear], atol=0.03)
    assert not sd.any()


def test_the_same_rows_grow_the_same_trees_and_json_keeps_them() -> None:
    pytest.importorskip("lightgbm")
    seen = inputs(100)
    once, again = (fit_trees(seen, step_function(seen)) for _ in range(2))
    assert once.model == again.model
    kept = Trees.from_dict(json.loads(json.dumps(once.to_dict())))
    np.testing.assert_array_equal(kept.predict(seen)[0], once.predict(seen)[0])
    assert not kept.share_gradient(seen).any()
    assert not kept.smooth


def test_without_lightgbm_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(MissingExtra, match=r"pip install 'mixlab\[trees\]'"):
        fit_trees(inputs(30), np.zeros(30))
