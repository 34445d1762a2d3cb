"""Shapes that meet a budget: all of them do, none is missed, and the recommended one is first."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlab.errors import InvalidRecipe
from mixlab.recipes import Architecture
from mixlab.recipes.search import search_shapes


def test_a_billion_parameters_of_pangus_vocabulary_are_pangus_shape() -> None:
    best = search_shapes(1.0e9, 48_000)[0]
    shape = best.architecture
    assert (shape.layers, shape.width, shape.heads, shape.kv_heads) == (21, 1792, 14, 14)
    assert best.expansion == pytest.approx(2.77, rel=0.01)
    assert best.tables_share < 0.2


@settings(max_examples=25, deadline=None)
@given(
    st.floats(5e5, 5e7),
    st.integers(256, 4096),
    st.sampled_from([32, 64]),
    st.booleans(),
    st.sampled_from([(1,), (1, 2), (4, 2, 1)]),
)
def test_every_shape_found_meets_the_budget_and_divides(
    parameters: float, vocabulary: int, head: int, tied: bool, queries: tuple[int, ...]
) -> None:
    found = search_shapes(
        parameters, vocabulary, head_width=head, tied_head=tied, queries_per_kv=queries,
        ffn_multiple=16, tolerance=0.03,
    )  # fmt: skip
    distances = [one.distance for one in found]
    assert distances == sorted(distances)
    for one in found:
        shape = one.architecture
        assert abs(shape.parameters / parameters - 1) <= 0.03
        assert shape.head_width == head
        assert shape.heads // shape.kv_heads in queries
        assert shape.ffn_width % 16 == 0
        assert 1 <= one.expansion <= 4
        tables = vocabulary * shape.width * (1 if tied else 2)
        assert one.tables_share == pytest.approx(tables / shape.parameters)


def test_no_shape_is_missed_that_a_brute_force_finds() -> None:
    budget, vocabulary = 2.0e6, 1024
    found = {
        (one.architecture.layers, one.architecture.width, one.architecture.ffn_width)
        for one in search_shapes(
            budget, vocabulary, depths=(3, 9), widths=(64, 192), head_width=32, ffn_multiple=32,
            tolerance=0.001, expansions=(1.5, 3.5),
        )
    }  # fmt: skip
    brute = set()
    for layers in range(3, 10):
        for width in range(64, 193, 32):
            for ffn in range(32, 4 * width, 32):
                heads = width // 32
                shape = Architecture(layers, width, heads, heads, ffn, vocabulary, 2048, False)
                near = abs(shape.parameters / budget - 1) <= 0.001
                if near and 1.5 <= ffn / width <= 3.5:
                    brute.add((layers, width, ffn))
    assert found == brute
    assert brute


def test_the_distance_is_of_depth_and_expansion_in_logarithms() -> None:
    one = search_shapes(1.0e9, 48_000, depths=(10, 10))[0]
    expected = math.hypot(math.log(0.5), math.log(one.expansion / 2.77))
    assert one.distance == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"parameters": 0.0}, "at least 1 parameter"),
        ({"parameters": float("nan")}, "at least 1 parameter"),
        ({"vocabulary": 0}, "at least 1 token"),
        ({"tolerance": 1.0}, "from 0 to below 1"),
        ({"depths": (9, 4)}, "range of depths"),
        ({"expansions": (0.0, 4.0)}, "range of expansions"),
        ({"depths": (1, 10**9)}, "too many to look through"),
        ({"widths": (128, 10**12)}, "too many to look through"),
        ({"head_width": 33}, "even"),
        ({"queries_per_kv": (0,)}, "at least 1"),
        ({"parameters": 1e6}, "embedding and head"),
        ({"tolerance": 0.0}, "the nearest is"),
    ],
)
def test_what_can_not_be_searched_is_refused(change: dict[str, object], said: str) -> None:
    given: dict[str, object] = {"parameters": 1e9, "vocabulary": 48_000, **change}
    with pytest.raises(InvalidRecipe, match=said):
        search_shapes(**given)  # type: ignore[arg-type]
