from dataclasses import replace

import numpy as np
import pytest

from mixlab.compressing import rank, suggested, tables_share
from mixlab.compressing.ranking import Ranking
from mixlab.errors import InvalidRecipe
from mixlab.recipes import Architecture
from tests.compressing.makers import byte_level, some_counts

# PanGu-pi-1B Pro: 21 layers of 1,792, expansion 2.77.
PRO = Architecture(
    layers=21, width=1792, heads=14, kv_heads=14, ffn_width=4964, vocabulary=48_000, context=2048,
    tied_head=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def ranking() -> Ranking:
    """100,883 tokens, of which the first 48,000 cover 97.86 %, as PanGu's."""
    order = np.arange(100_883)
    tail = 1 - (1 - order / 100_883) ** 3
    covered = np.where(order < 48_000, 0.9786 * (order + 1) ** 0.2 / 48_000**0.2, 0.0)
    covered = np.where(order < 48_000, covered, 0.9786 + 0.0214 * tail)
    return Ranking(order, covered / covered[-1], fixed=300)


@pytest.mark.parametrize("tied", [False, True])
def test_the_share_of_the_tables_is_that_of_the_shape(tied: bool) -> None:
    for vocabulary in (1, 1000, 48_000):
        shape = replace(PRO, vocabulary=vocabulary, tied_head=tied)
        rest = shape.block_parameters + shape.width
        expected = 1 - rest / shape.parameters
        assert tables_share(PRO if not tied else shape, vocabulary) == pytest.approx(expected)


def test_pangus_choice_obeys_both_rules(ranking: Ranking) -> None:
    found = suggested(ranking, PRO)
    assert found.least < 48_000 < found.most == found.vocabulary
    assert not found.contradictory
    assert tables_share(PRO, 48_000) == pytest.approx(0.172, abs=0.001)
    assert tables_share(PRO, found.most) < 0.2 <= tables_share(PRO, found.most + 1)
    assert ranking.coverage(found.least) > 0.9 >= ranking.coverage(found.least - 1)
    assert "cover more than 90%" in found.reason


def test_a_contradiction_is_told(ranking: Ranking) -> None:
    small = replace(PRO, layers=2, width=128, heads=2, kv_heads=2, ffn_width=352)
    found = suggested(ranking, small)
    assert found.contradictory
    assert found.vocabulary is None
    assert found.most < found.least
    assert "contradict each other" in found.reason
    assert suggested(ranking, small, coverage=0.1).vocabulary == found.most


def test_a_suggestion_is_no_larger_than_the_tokenizer() -> None:
    tokenizer = byte_level()
    ranking = rank(tokenizer, some_counts(tokenizer, 0))
    assert suggested(ranking, PRO).vocabulary == ranking.size


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, float("nan")])
def test_thresholds_are_shares(ranking: Ranking, value: float) -> None:
    with pytest.raises(InvalidRecipe, match=r"coverage is .* more than 0 and less than 1"):
        suggested(ranking, PRO, coverage=value)
    with pytest.raises(InvalidRecipe, match="share of the tables"):
        suggested(ranking, PRO, share=value)


def test_tables_of_exactly_the_share_are_too_large(ranking: Ranking) -> None:
    tiny = Architecture(
        layers=1, width=2, heads=1, kv_heads=1, ffn_width=1,
        vocabulary=9, context=8, tied_head=False,
    )  # fmt: skip
    assert tables_share(tiny, 7) == 0.5
    assert suggested(ranking, tiny, share=0.5).most == 6
