"""The paper's published mixtures, arXiv 2405.14908, table 5 (SlimPajama)."""

from math import exp, log, nan

import numpy as np
import pytest

from mixlab.entropy.weighting import softmax_mixture
from mixlab.errors import InvalidMixture

SHANNON = {
    "ArXiv": 0.0738, "Books": 0.1474, "C4": 0.1619, "CommonCrawl": 0.1863,
    "GitHub": 0.0952, "StackExchange": 0.1152, "Wikipedia": 0.2202,
}  # fmt: skip
CONDITIONAL = {
    "ArXiv": 0.0710, "Books": 0.1669, "C4": 0.2079, "CommonCrawl": 0.2175,
    "GitHub": 0.0902, "StackExchange": 0.1177, "Wikipedia": 0.1287,
}  # fmt: skip
JOINT = {
    "ArXiv": 0.0339, "Books": 0.1592, "C4": 0.2179, "CommonCrawl": 0.2623,
    "GitHub": 0.0556, "StackExchange": 0.0878, "Wikipedia": 0.1834,
}  # fmt: skip
# Conditional entropies less CommonCrawl's, in nats, that the table implies.
CONDITIONAL_DIFFERENCES_NATS = {
    "ArXiv": -1.120, "Books": -0.265, "C4": -0.045, "CommonCrawl": 0.0,
    "GitHub": -0.880, "StackExchange": -0.614, "Wikipedia": -0.525,
}  # fmt: skip


def test_entropy_differences_give_the_published_mixture() -> None:
    mixture = softmax_mixture({d: 5.0 + dh for d, dh in CONDITIONAL_DIFFERENCES_NATS.items()})
    assert dict(mixture) == pytest.approx(CONDITIONAL, abs=2e-4)


def test_the_chain_rule_holds_between_the_published_columns() -> None:
    """JE = SE + CE, so the softmax of the sum is the joint column, to its rounding."""
    entropies = {d: log(SHANNON[d]) + log(CONDITIONAL[d]) for d in JOINT}
    assert dict(softmax_mixture(entropies)) == pytest.approx(JOINT, abs=6e-5)


def test_shares_differ_by_exp_of_the_entropy_difference() -> None:
    mixture = softmax_mixture({"a": 3.0, "b": 1.5}, temperature=2.0)
    assert mixture.proportions["a"] / mixture.proportions["b"] == pytest.approx(exp(0.75))


def test_large_entropies_do_not_overflow() -> None:
    np.testing.assert_allclose(softmax_mixture({"a": 2000.0, "b": 2000.0}).shares(), 0.5)


@pytest.mark.parametrize("entropies", [{}, {"a": nan, "b": 1.0}, {"a": float("inf")}])
def test_entropies_must_be_finite(entropies: dict[str, float]) -> None:
    with pytest.raises(InvalidMixture):
        softmax_mixture(entropies)


@pytest.mark.parametrize("temperature", [0.0, -1.0, nan])
def test_the_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(InvalidMixture, match="temperature"):
        softmax_mixture({"a": 1.0}, temperature)
