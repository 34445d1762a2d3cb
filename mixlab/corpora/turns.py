"""Which domain each sequence of a run takes, and how many each took before any of them.

Sequence k takes the domain whose share, laid end to end with the others, holds the point

    u_k = frac(shift + k / golden ratio),

a Kronecker sequence: over any N consecutive sequences of one mixture a domain's count differs
from N * share by O(log N), measured at most 6 sequences up to N = 2e9, where independent draws
differ by sqrt(N). Shares are those of the schedule after the k * context tokens before it, so
neither the size of batches nor where steps end has a say in them.

Points are multiples of 2^-64, and frac(x) < c exactly where floor(x) - floor(x - c) = 1. Over
a span of a schedule the boundary c is linear in k, as x is; so the points below it are the
difference of two floor sums, exact for a ramp as for a constant mixture, without a table.

Sources: Kuipers & Niederreiter, Uniform Distribution of Sequences, ch. 2.3 (discrepancy of
the golden ratio); the floor sum is the Euclid-like recursion of Knuth, Concrete Mathematics,
ch. 3.5.
Limits: each span of a schedule adds its own deviation. On a ramp of N sequences it is mostly 1
and rarely over 20; where a boundary moves in resonance with the golden ratio it grows to about
0.7 sqrt(N), 938 sequences of 3,000,000 being the most that ramps chosen for it reached.
A share below 2^-64 may be taken for none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from mixlab.schedules import MixtureSchedule, Span

Integers = npt.NDArray[np.int64]

UNIT = 1 << 64
# 2^64 / golden ratio, the nearest odd number, so that the sequence has the full period.
GOLDEN = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class _Piece:
    """A span of the schedule in sequences: the first of them, and its inner boundaries.

    The boundary of sequence k is before + (after - before) * (k * context - begin) / tokens, in
    units of 2^-64.
    """

    first: int
    begin: int
    tokens: int
    before: tuple[int, ...]
    after: tuple[int, ...]


class Turns:
    """The order in which domains take turns, for a schedule and a shift of the points.

    `domains` names all that have a share at any time; results count them by their place in it.
    """

    def __init__(
        self, schedule: MixtureSchedule, domains: Sequence[str], *, context: int, shift: int
    ) -> None:
        self._context, self._shift = context, shift
        pieces = [_piece(span, domains, context) for span in schedule.spans()]
        # A span shorter than a sequence may hold none.
        self._pieces = [p for p, n in pairwise(pieces) if p.first < n.first] + pieces[-1:]
        self._befores = [np.zeros(len(domains), dtype=np.int64)]
        for piece, following in pairwise(self._pieces):
            self._befores.append(self._befores[-1] + self._counts(piece, following.first))

    def domains_of(self, first: int, count: int) -> Integers:
        """The domain's number of each of `count` sequences from `first` on, shape (count,)."""
        found = np.empty(count, dtype=np.int64)
        ends = [piece.first for piece in self._pieces[1:]] + [first + count]
        for piece, end in zip(self._pieces, ends, strict=True):
            begin, end = max(first, piece.first), min(first + count, end)
            if begin < end:
                found[begin - first : end - first] = self._taken(piece, begin, end - begin)
        return found

    def counts_before(self, sequences: int) -> Integers:
        """Sequences of each domain among the first so many, exact, shape (domain,)."""
        number = sum(piece.first < sequences for piece in self._pieces[1:])
        return self._befores[number] + self._counts(self._pieces[number], sequences)

    def _taken(self, piece: _Piece, first: int, count: int) -> Integers:
        start = np.uint64((self._shift + first * GOLDEN) % UNIT)
        # uint64 wraps, which is the "frac" of the formula.
        points = start + np.arange(count, dtype=np.uint64) * np.uint64(GOLDEN)
        if piece.before == piece.after:
            return np.searchsorted(np.array(piece.before, dtype=np.uint64), points, side="right")
        numbers = np.zeros(count, dtype=np.int64)
        # Python's own whole numbers, since these products need some 110 bits.
        seen = np.arange(first, first + count).astype(object) * self._context - piece.begin
        for before, after in zip(piece.before, piece.after, strict=True):
            bounds = before - (before - after) * seen // piece.tokens  # rounded up
            numbers += points >= bounds.astype(np.uint64)
        return numbers

    def _counts(self, piece: _Piece, end: int) -> Integers:
        """Sequences of each domain from the piece's first to `end`, shape (domain,)."""
        terms = end - piece.first
        start = self._shift + piece.first * GOLDEN
        seen = piece.first * self._context - piece.begin
        wraps = floor_sum(terms, UNIT, GOLDEN, start)
        below = []
        for before, after in zip(piece.before, piece.after, strict=True):
            # A point lies below c exactly where taking c away borrows one more unit.
            moved, scale = after - before, piece.tokens if after != before else 1
            slope = GOLDEN * scale - moved * self._context
            offset = (start - before) * scale - moved * seen
            below.append(wraps - floor_sum(terms, UNIT * scale, slope, offset))
        ends = np.array([0, *below, terms], dtype=np.int64)
        return ends[1:] - ends[:-1]


def _piece(span: Span, domains: Sequence[str], context: int) -> _Piece:
    """A span as boundaries; it begins with the first sequence that begins inside it."""
    return _Piece(
        first=-(-span.begin_tokens // context),
        begin=span.begin_tokens,
        tokens=1 if span.end_tokens is None else span.end_tokens - span.begin_tokens,
        before=_boundaries(span.before.shares(domains).tolist()),
        after=_boundaries(span.after.shares(domains).tolist()),
    )


def floor_sum(terms: int, modulus: int, slope: int, offset: int) -> int:
    """Sum of floor((slope * i + offset) / modulus) for i in range(terms), exact, in O(log modulus).

    `slope` and `offset` may be negative.
    """
    total, sign = 0, 1
    while terms > 0:
        total += sign * (
            terms * (terms - 1) // 2 * (slope // modulus) + terms * (offset // modulus)
        )
        slope, offset = slope % modulus, offset % modulus
        highest = slope * (terms - 1) + offset
        # Lattice points under the line are those of its rectangle without those under its
        # inverse: sum_i floor((s i + o)/m) = (n-1) * rows - sum_y ..., with the axes swapped.
        rows = highest // modulus
        if rows == 0:
            break
        total += sign * terms * rows
        sign = -sign
        terms, modulus, slope, offset = rows, slope, modulus, modulus - offset + slope - 1
    return total


def _boundaries(shares: list[float]) -> tuple[int, ...]:
    """Upper ends of all domains' intervals but the last, whose is 2^64, in units of 2^-64."""
    exact = [Fraction(share) for share in shares]
    total = sum(exact)
    running, bounds = Fraction(0), []
    for share in exact[:-1]:
        running += share
        bounds.append(min(int(running / total * UNIT), UNIT - 1))
    return tuple(bounds)
