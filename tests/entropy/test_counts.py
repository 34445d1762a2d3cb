import tracemalloc
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlab.entropy import counts as module
from mixlab.entropy.counts import PairCounts, count_blocks

END = 0
documents_strategy = st.lists(st.lists(st.integers(1, 6), max_size=8), min_size=1, max_size=10)


def shard_of(
    documents: list[list[int]], dtype: type = np.uint16, *, mark: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    pieces = [[*document, END] if mark else document for document in documents]
    starts = np.cumsum([0, *map(len, pieces)])[:-1]
    return np.array([t for piece in pieces for t in piece], dtype=dtype), starts


def as_counters(counts: PairCounts) -> tuple[Counter[tuple[int, int]], Counter[int]]:
    pairs = {
        (int(k) >> 32, int(k) & 0xFFFFFFFF): int(n)
        for k, n in zip(counts.keys, counts.counts, strict=True)
    }
    tokens = {i: int(n) for i, n in enumerate(counts.tokens()) if n}
    return Counter(pairs), Counter(tokens)


def brute_force(documents: list[list[int]]) -> tuple[Counter[tuple[int, int]], Counter[int]]:
    pairs = Counter(pair for document in documents for pair in pairwise(document))
    return pairs, Counter(token for document in documents for token in document)


def same(one: PairCounts, other: PairCounts) -> bool:
    return as_counters(one) == as_counters(other)


@pytest.fixture(params=["as shipped", "tiny limits"])
def limits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small data takes every path: cold ids, several chunks, several runs, grouping."""
    if request.param == "tiny limits":
        monkeypatch.setattr(module, "HOT_IDS", 2)
        monkeypatch.setattr(module, "CHUNK_TOKENS", 3)
        monkeypatch.setattr(module, "BUFFERED_KEYS", 5)


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@pytest.mark.parametrize("mark", [True, False])
def test_counts_are_those_of_brute_force(dtype: type, mark: bool) -> None:
    @settings(deadline=None, max_examples=60)
    @given(documents=documents_strategy)
    def check(documents: list[list[int]]) -> None:
        tokens, starts = shard_of(documents, dtype, mark=mark)
        starts = starts[starts < len(tokens)]
        counts = PairCounts.from_shard(tokens, starts, END if mark else None)
        assert as_counters(counts) == brute_force(documents)
        assert (np.diff(counts.keys.astype(np.int64)) > 0).all()
        assert (counts.counts > 0).all()

    check()


def test_grouping_many_keys_gives_the_same_as_sorting(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = np.random.default_rng(0).zipf(1.3, 20_000).astype(np.uint32) * np.uint32(2654435761)
    expected, times = np.unique(keys, return_counts=True)
    monkeypatch.setattr(module, "GROUPED_KEYS", 1)
    found, counts = module._run(keys.copy(), 16)
    np.testing.assert_array_equal(found >> np.uint64(32), expected >> 16)
    np.testing.assert_array_equal(found & np.uint64(0xFFFFFFFF), expected & 0xFFFF)
    np.testing.assert_array_equal(counts, times)


@pytest.mark.parametrize("vocabulary", [300, 32_768, 65_536, 100_000])
def test_counts_at_real_sizes_are_those_of_numpy_unique(vocabulary: int) -> None:
    rng = np.random.default_rng(vocabulary)
    ids = np.minimum(rng.zipf(1.2, 300_000) - 1, vocabulary - 1)
    tokens = ids.astype(np.uint16 if vocabulary <= 65_536 else np.uint32)
    expected, times = np.unique(ids[:-1] * vocabulary + ids[1:], return_counts=True)
    counts = PairCounts.from_shard(tokens, [0])
    firsts, seconds = np.divmod(expected, vocabulary)
    np.testing.assert_array_equal(counts.keys, (firsts << 32 | seconds).astype(np.uint64))
    np.testing.assert_array_equal(counts.counts, times)


@settings(deadline=None)
@given(shards=st.lists(documents_strategy, min_size=3, max_size=3))
def test_merging_is_associative_commutative_and_adds_up(shards: list[list[list[int]]]) -> None:
    one, two, three = (PairCounts.from_shard(*shard_of(documents), END) for documents in shards)
    together = PairCounts.from_shard(*shard_of([d for s in shards for d in s]), END)
    assert same(one.merge(two).merge(three), together)
    assert same(one.merge(two.merge(three)), together)
    assert same(three.merge(one).merge(two), together)
    assert same(PairCounts.total(iter([one, two, three])), together)
    assert same(PairCounts.empty().merge(one), one)


@settings(deadline=None)
@given(documents=documents_strategy, blocks=st.integers(1, 12))
def test_blocks_cut_at_documents_and_add_up(documents: list[list[int]], blocks: int) -> None:
    tokens, starts = shard_of(documents)
    parts = count_blocks(tokens, starts, END, blocks=blocks)
    assert 1 <= len(parts) <= blocks
    assert same(PairCounts.total(parts), PairCounts.from_shard(tokens, starts, END))


def test_blocks_are_of_about_equal_length() -> None:
    tokens, starts = shard_of([[1, 2, 3, 4]] * 1000)
    parts = count_blocks(tokens, starts, END, blocks=20)
    assert [part.pairs for part in parts] == [150] * 20


def test_no_tokens_count_nothing() -> None:
    counts = PairCounts.from_shard(np.empty(0, np.uint16), [], END)
    assert counts.pairs == 0
    assert same(counts, PairCounts.total([]))


def test_memory_is_bounded_by_buffer_and_distinct_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the module says: 24 bytes a buffered key, 60 a distinct pair, however many tokens."""
    monkeypatch.setattr(module, "BUFFERED_KEYS", 1 << 18)
    monkeypatch.setattr(module, "HOT_IDS", 8)
    tokens = (np.random.default_rng(0).integers(0, 245, 4_000_000) * 267).astype(np.uint16)
    tracemalloc.start()
    counts = PairCounts.from_shard(tokens, [0])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    chunk = 64 * module.CHUNK_TOKENS
    assert peak < 24 * (1 << 18) + 60 * len(counts.keys) + chunk < 4 * len(tokens)
