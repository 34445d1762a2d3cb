"""Counts on a torch device equal those of NumPy; here the device is torch's CPU."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlab.entropy.counts import PairCounts
from mixlab.entropy.counts import count_blocks as counted_by_numpy
from mixlab.entropy.on_device import _unique, count_blocks, count_shard

CPU = torch.device("cpu")
DTYPES = [np.uint16, np.uint32]


def assert_equal(one: PairCounts, other: PairCounts) -> None:
    np.testing.assert_array_equal(one.keys, other.keys)
    np.testing.assert_array_equal(one.counts, other.counts)
    assert (one.keys.dtype, one.counts.dtype) == (other.keys.dtype, other.counts.dtype)
    np.testing.assert_array_equal(one.lasts, other.lasts)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(deadline=None, max_examples=150)
@given(
    tokens=st.lists(st.integers(0, 5), max_size=40),
    marks=st.sets(st.integers(0, 40)),
    end_of_text=st.sampled_from([None, 0, 3]),
    chunk=st.integers(1, 50),
)
def test_any_tokens_borders_and_chunks(
    dtype: type, tokens: list[int], marks: set[int], end_of_text: int | None, chunk: int
) -> None:
    ids = np.array(tokens, dtype=dtype)
    starts = np.array(sorted({0} | {mark for mark in marks if mark < len(tokens)}), dtype=np.int64)
    starts = starts[starts < max(1, len(ids))]
    expected = PairCounts.from_shard(ids, starts, end_of_text)
    assert_equal(count_shard(ids, starts, end_of_text, device=CPU, chunk_tokens=chunk), expected)


@pytest.mark.parametrize(
    ("dtype", "largest"), [(np.uint16, 2**16 - 1), (np.uint32, 2**16), (np.uint32, 2**20)]
)
def test_ids_at_the_ends_of_their_format(dtype: type, largest: int) -> None:
    ids = np.array([largest, 0, largest, 0, 1, largest - 1], dtype=dtype)
    assert_equal(count_shard(ids, [0], 1, device=CPU), PairCounts.from_shard(ids, [0], 1))


def test_keys_of_the_largest_ids_there_can_be() -> None:
    """Whole counts of such ids would hold a table of 2^32 last tokens."""
    largest = 2**32 - 1
    first = torch.tensor([largest, 0, largest], dtype=torch.int64)
    keys, times = _unique(first, torch.tensor([0, largest, 0], dtype=torch.int64), 32)
    assert keys.tolist() == [largest, largest << 32]
    assert times.tolist() == [1, 2]


@pytest.mark.parametrize("dtype", DTYPES)
def test_text_like_shards_in_blocks(dtype: type) -> None:
    chance = np.random.default_rng(5)
    ids = np.minimum(chance.zipf(1.2, size=60_000), 30_000).astype(dtype)
    starts = np.unique(np.concatenate([[0], chance.integers(1, len(ids), size=300)]))
    ids[starts[1:] - 1] = 7
    expected = counted_by_numpy(ids, starts, 7, blocks=20)
    found = count_blocks(ids, starts, 7, blocks=20, device=CPU)
    assert len(found) == len(expected) == 20
    for one, other in zip(found, expected, strict=True):
        assert_equal(one, other)
    assert_equal(PairCounts.total(found), PairCounts.from_shard(ids, starts, 7))
