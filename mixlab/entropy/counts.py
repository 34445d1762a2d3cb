"""Counts of adjacent token pairs: what every entropy measure is computed from.

A pair is (token t, token t + 1) of one document. Pairs never cross a document's border, and
the end-of-text token is left out of tokens and pairs, because it is a border and no text.
Counts of shards add up, so shards can be counted by several workers and merged in any order.

Counting: the 2,048 most frequent ids of an array get a dense table of pairs (text is so
skewed that it takes 73% of the pairs of a 32k vocabulary), the other pairs are sorted as
packed keys, (first << 16 | second) in 32 bits where ids fit in 16.

Memory of a worker that counts one array, beside the memory-mapped tokens: at most 240 MB
(the table, and 24 bytes for each of 2^23 buffered keys) plus 60 bytes per distinct pair,
of which 16 stay in the result. Measured: 165 MB for 20M tokens of text with a 32k vocabulary,
and 480 MB for a shard of 8M tokens (the default size) in which every pair is distinct.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import isqrt
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array

Tokens = npt.NDArray[np.unsignedinteger[Any]]
Counts = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Run = tuple[Keys, Counts]

HOT_IDS = 2048
# Small enough for a core's cache: 3x faster than whole-array passes.
CHUNK_TOKENS = 1 << 16
BUFFERED_KEYS = 1 << 23
# From here on grouping by the first id beats sorting.
GROUPED_KEYS = 1 << 22
# Frequencies for choosing hot ids need no more; any choice gives the same counts.
SAMPLED_TOKENS = 1 << 20
HALF = np.uint64(32)


@dataclass(frozen=True)
class PairCounts:
    """How often each pair of ids occurs, and each id at the end of a document."""

    keys: Keys  # (pair,), first << 32 | second, ascending, distinct
    counts: Counts  # (pair,), all at least 1
    lasts: Counts  # (id,), how often the id is the last token of a document

    @classmethod
    def empty(cls) -> "PairCounts":
        """No tokens at all; the neutral element of merging."""
        return cls(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64))

    @classmethod
    def from_shard(
        cls, tokens: Tokens, starts: npt.ArrayLike, end_of_text_id: int | None = None
    ) -> "PairCounts":
        """Pairs of a shard's tokens, shape (token,), uint16 or uint32.

        `starts` are the offsets of the documents' first tokens, shape (document,).
        """
        if len(tokens) == 0:
            return cls.empty()
        ends, borders = _ends_and_borders(tokens, starts, end_of_text_id)
        lasts = np.bincount(tokens[ends], minlength=int(tokens.max()) + 1)
        keys, counts = _without(_adjacent_pairs(tokens), tokens, borders)
        return cls(keys, counts, lasts.astype(np.int64))

    @classmethod
    def total(cls, parts: Iterable["PairCounts"]) -> "PairCounts":
        """The sum of all parts. Consumes the parts one by one, so they may be made lazily."""
        lasts = np.empty(0, np.int64)

        def runs() -> Iterator[Run]:
            nonlocal lasts
            for part in parts:
                lasts = _padded_sum(lasts, part.lasts)
                yield part.keys, part.counts

        keys, counts = _merged_all(runs())
        return cls(keys, counts, lasts)

    def merge(self, other: "PairCounts") -> "PairCounts":
        """The counts of both; associative and commutative."""
        return PairCounts.total([self, other])

    @property
    def pairs(self) -> int:
        """How many pairs were counted."""
        return int(self.counts.sum())

    def firsts(self) -> Counts:
        """How often each id is the first of a pair, shape (id,)."""
        return _summed_by(self.keys >> HALF, self.counts)

    def tokens(self) -> Counts:
        """How often each id occurs, shape (id,), end-of-text left out."""
        return _padded_sum(self.firsts(), self.lasts)


def count_blocks(
    tokens: Tokens,
    starts: npt.ArrayLike,
    end_of_text_id: int | None = None,
    *,
    blocks: int = 1,
    count: "Counting | None" = None,
) -> list[PairCounts]:
    """A shard's counts in up to `blocks` runs of whole documents of about equal length.

    For a jackknife over a corpus of few shards. A shard of fewer documents gives fewer blocks.
    `count` counts one run, `PairCounts.from_shard` where it is left out.
    """
    count = count or PairCounts.from_shard
    offsets = np.asarray(starts, dtype=np.int64)
    targets = np.linspace(0, len(tokens), blocks + 1)[1:-1]
    nearest = np.unique(np.searchsorted(offsets, targets))
    inner = offsets[nearest[(nearest > 0) & (nearest < len(offsets))]]
    edges = [0, *inner.tolist(), len(tokens)]
    return [
        count(
            tokens[begin:end],
            offsets[(offsets >= begin) & (offsets < end)] - begin,
            end_of_text_id,
        )
        for begin, end in pairwise(edges)
    ]


Counting = Callable[[Tokens, npt.ArrayLike, int | None], PairCounts]


def _ends_and_borders(
    tokens: Tokens, starts: npt.ArrayLike, end_of_text_id: int | None
) -> tuple[Counts, Counts]:
    """Positions of the documents' last tokens, and positions t whose (t, t + 1) is no pair."""
    last = len(tokens) - 1
    befores = np.asarray(starts, dtype=np.int64) - 1
    marks = np.empty(0, np.int64)
    if end_of_text_id is not None:
        marks = np.concatenate(
            [
                first + np.flatnonzero(tokens[first : first + CHUNK_TOKENS] == end_of_text_id)
                for first in range(0, len(tokens), CHUNK_TOKENS)
            ]
        )
    stops = np.unique(np.concatenate([befores, marks, marks - 1, [last]]))
    stops = stops[(stops >= 0) & (stops <= last)]
    ends = stops if end_of_text_id is None else stops[tokens[stops] != end_of_text_id]
    return ends, stops[stops < last]


def _adjacent_pairs(tokens: Tokens) -> Run:
    """Distinct pairs of neighbours in the whole array, borders ignored."""
    hot = _hot_ids(tokens)
    size = len(hot)
    # Rank of every id among the hot ones; the row and column `size` take all others.
    ranks = np.full(int(tokens.max()) + 1, size, dtype=np.uint16)
    ranks[hot] = np.arange(size)
    table = np.zeros((size + 1) ** 2, dtype=np.int64)
    cold = _merged_all(_cold_runs(tokens, ranks, table))
    cells = table.reshape(size + 1, size + 1)[:size, :size]
    rows, columns = np.nonzero(cells)
    return _merged((hot[rows] << HALF | hot[columns], cells[rows, columns]), cold)


def _hot_ids(tokens: Tokens) -> Keys:
    """The most frequent ids of a regular sample, ascending."""
    sample = tokens[:: max(1, len(tokens) // SAMPLED_TOKENS)]
    frequency = np.bincount(sample)
    # No more cells than tokens, so that short arrays don't pay for an empty table.
    size = min(HOT_IDS, len(frequency), isqrt(len(tokens)))
    return np.sort(np.argpartition(frequency, -size)[-size:]).astype(np.uint64)


def _cold_runs(tokens: Tokens, ranks: npt.NDArray[np.uint16], table: Counts) -> Iterator[Run]:
    """Add pairs of hot ids to the table; yield the others as ascending runs."""
    side = isqrt(len(table))
    cold = side - 1
    half = 16 if tokens.dtype == np.uint16 else 32
    buffer: list[npt.NDArray[Any]] = []
    buffered = 0
    for first in range(0, len(tokens) - 1, CHUNK_TOKENS):
        ids = tokens[first : first + CHUNK_TOKENS + 1]
        rank = ranks[ids]
        cells = rank[:-1].astype(np.int64) * side + rank[1:]
        np.add.at(table, cells, np.int64(1))
        others = np.flatnonzero((rank[:-1] == cold) | (rank[1:] == cold))
        buffer.append(_packed(ids[others], ids[others + 1], half))
        buffered += len(others)
        if buffered >= BUFFERED_KEYS:
            yield _run(np.concatenate(buffer), half)
            buffer, buffered = [], 0
    if buffered:
        yield _run(np.concatenate(buffer), half)


def _packed(firsts: Tokens, seconds: Tokens, half: int) -> npt.NDArray[Any]:
    """Pairs as one number each, of twice `half` bits."""
    if half == 16:
        return firsts.astype(np.uint32) << np.uint32(16) | seconds
    return firsts.astype(np.uint64) << HALF | seconds


def _run(keys: npt.NDArray[Any], half: int) -> Run:
    """Distinct keys, ascending and widened to 64 bits, and their counts."""
    if half == 16 and len(keys) >= GROUPED_KEYS:
        keys = _grouped(keys)
    else:
        keys.sort()
    ends = np.append(np.flatnonzero(keys[1:] != keys[:-1]), len(keys) - 1)
    wide = keys[ends].astype(np.uint64)
    if half == 16:
        wide = wide >> np.uint64(16) << HALF | wide & np.uint64(0xFFFF)
    return wide, np.diff(ends, prepend=-1)


def _grouped(keys: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Sorted keys: seconds grouped by first, then each group sorted.

    Faster than sorting whole keys where there are millions: SciPy groups in linear time
    (COO to CSR), and NumPy sorts 16-bit numbers by radix. Measured 20 against 37 ns a key.
    """
    firsts = (keys >> np.uint32(16)).astype(np.int32)
    seconds = keys.astype(np.uint16)  # keeps the low half
    pairs = coo_array((seconds, (firsts, firsts)), shape=(1 << 16, 1 << 16))
    # Keeps tocsr() from summing the seconds of a first as duplicates.
    pairs.has_canonical_format = True
    grouped = pairs.tocsr()
    for begin, end in pairwise(grouped.indptr.tolist()):
        if end - begin > 1:
            grouped.data[begin:end].sort(kind="stable")
    groups = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)
    result: npt.NDArray[np.uint32] = np.repeat(groups, np.diff(grouped.indptr))
    result |= grouped.data
    return result


def _merged_all(runs: Iterable[Run]) -> Run:
    """One ascending run from many, taken one by one."""
    pending: list[Run] = [(np.empty(0, np.uint64), np.empty(0, np.int64))]
    for run in runs:
        pending.append(run)
        # Equals merge with equals: every pair is moved O(log runs) times.
        while len(pending) > 1 and len(pending[-2][0]) <= 2 * len(pending[-1][0]):
            pending.append(_merged(pending.pop(), pending.pop()))
    while len(pending) > 1:
        pending.append(_merged(pending.pop(), pending.pop()))
    return pending[0]


def _merged(one: Run, other: Run) -> Run:
    """One ascending run from two."""
    if len(one[0]) == 0 or len(other[0]) == 0:
        return one if len(one[0]) else other
    keys = np.concatenate([one[0], other[0]])
    # "stable" is a timsort for 64-bit keys, which finds the ascending runs.
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    counts = np.concatenate([one[1], other[1]])[order]
    del order
    begins = np.append(0, np.flatnonzero(keys[1:] != keys[:-1]) + 1)
    return keys[begins], np.add.reduceat(counts, begins)


def _without(run: Run, tokens: Tokens, borders: Counts) -> Run:
    """Take the neighbours at those positions out again, and keys that come to 0."""
    if len(borders) == 0:
        return run
    keys, counts = run
    crossing = tokens[borders].astype(np.uint64) << HALF | tokens[borders + 1]
    removed, times = np.unique(crossing, return_counts=True)
    counts = counts.copy()
    counts[np.searchsorted(keys, removed)] -= times
    kept = counts > 0
    return keys[kept], counts[kept]


def _summed_by(ids: Keys, counts: Counts) -> Counts:
    """Sums of counts by ids that ascend, shape (id,)."""
    if len(ids) == 0:
        return np.empty(0, np.int64)
    begins = np.append(0, np.flatnonzero(ids[1:] != ids[:-1]) + 1)
    sums = np.zeros(int(ids[-1]) + 1, dtype=np.int64)
    sums[ids[begins].astype(np.int64)] = np.add.reduceat(counts, begins)
    return sums


def _padded_sum(one: Counts, other: Counts) -> Counts:
    result = np.zeros(max(len(one), len(other)), dtype=np.int64)
    result[: len(one)] += one
    result[: len(other)] += other
    return result
