"""Batches as a pure function of (mixture, seed, step), and what they consume.

Sequence number k = step * batch + b takes the domain whose share holds the point

    u_k = frac(shift(seed) + k / golden ratio),

a Kronecker sequence: over any N consecutive sequences a domain's count differs from
N * share by O(log N), measured at most 6 sequences up to N = 2e9, where independent draws
differ by sqrt(N). The j-th sequence of a domain is window perm[j mod n] of its n windows,
with a new permutation for every epoch j div n.

All of it is integer arithmetic: points are multiples of 2^-64, counts of points below a
boundary are exact floor sums, and permutations are Feistel networks, which need no memory
however large the domain is. So nothing is replayed to resume a run or to audit one, and no
result depends on a library's random stream.

Sources: Kuipers & Niederreiter, Uniform Distribution of Sequences, ch. 2.3 (discrepancy of
the golden ratio); the floor sum is the Euclid-like recursion of Knuth, Concrete Mathematics,
ch. 3.5; Feistel with cycle walking is Black & Rogaway, CT-RSA 2002.
Limits: windows are cut at multiples of the context and may cross documents; a tail shorter
than one window is not trained on.
"""

from collections.abc import Mapping
from fractions import Fraction
from hashlib import blake2b
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mixlab.errors import DomainTooSmall, InvalidMixture
from mixlab.mixture import Mixture

Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

UNIT = 1 << 64
# 2^64 / golden ratio, the nearest odd number, so that the sequence has the full period.
GOLDEN = 0x9E3779B97F4A7C15
FEISTEL_ROUNDS = 6


class TokenWindows(Protocol):
    """A stream of tokens that can be cut into windows."""

    def __len__(self) -> int:
        """Tokens in the stream."""
        ...

    def windows(self, starts: Integers, length: int) -> Integers:
        """The tokens from each start on, shape (window, length)."""
        ...


class Sampler:
    """Training batches of one run.

    `batch(step)` and `consumed(from_step, to_step)` depend on the mixture, the seed and the
    step alone, not on earlier calls. Two mixtures with one seed read each domain in the same
    order, so that runs differ by their shares and not by their luck.

    Raises InvalidMixture for a domain that has no stream, and DomainTooSmall for a domain
    with a positive share and fewer than context + 1 tokens.
    """

    def __init__(
        self,
        streams: Mapping[str, TokenWindows],
        mixture: Mixture,
        *,
        context: int,
        batch_sequences: int,
        seed: int,
    ) -> None:
        # By name, so that equal mixtures written in another order give equal batches.
        self.domains = tuple(sorted(name for name, share in mixture if share > 0))
        self._check_names(streams)
        self.context = context
        self.batch_sequences = batch_sequences
        self.seed = seed
        self._streams = [streams[name] for name in self.domains]
        self._windows = [self._count_windows(name, streams[name]) for name in self.domains]
        self._bounds = _boundaries([mixture.proportions[name] for name in self.domains])
        self._shift = _hash64("shift", seed)

    def _check_names(self, streams: Mapping[str, TokenWindows]) -> None:
        missing = [name for name in self.domains if name not in streams]
        if missing:
            raise InvalidMixture(
                f"The mixture names {', '.join(missing)}, but the corpus has only "
                f"{', '.join(sorted(streams))}; use names of the corpus."
            )

    def _count_windows(self, name: str, stream: TokenWindows) -> int:
        windows = (len(stream) - 1) // self.context
        if windows < 1:
            raise DomainTooSmall(
                f"Domain {name!r} has {len(stream)} training tokens, fewer than one sequence of "
                f"{self.context} and its target; add text, or give it a share of 0."
            )
        return windows

    def batch(self, step: int) -> Integers:
        """The tokens of one weight update, steps counted from 0.

        Shape (batch_sequences, context + 1): inputs are [:, :-1] and targets [:, 1:].
        """
        first = step * self.batch_sequences
        order = self._domain_of(first)
        used = self._counts_before(first)
        tokens = np.empty((self.batch_sequences, self.context + 1), dtype=np.int64)
        for i in np.unique(order):
            rows = np.flatnonzero(order == i)
            index = self._window_index(int(i), used[i] + np.arange(len(rows)))
            tokens[rows] = self._streams[i].windows(index * self.context, self.context + 1)
        return tokens

    def consumed(self, from_step: int, to_step: int) -> dict[str, int]:
        """Tokens of each domain in steps from_step to to_step - 1, without replaying them.

        Domains that the mixture leaves out are not named.
        """
        before = self._counts_before(from_step * self.batch_sequences)
        after = self._counts_before(to_step * self.batch_sequences)
        counts = (after - before) * self.context
        return dict(zip(self.domains, counts.tolist(), strict=True))

    def _domain_of(self, first: int) -> Integers:
        """The domain's number of each sequence of the batch that starts at `first`."""
        start = np.uint64((self._shift + first * GOLDEN) % UNIT)
        # uint64 wraps, which is the "frac" of the formula.
        points = start + np.arange(self.batch_sequences, dtype=np.uint64) * np.uint64(GOLDEN)
        inner = np.array(self._bounds[:-1], dtype=np.uint64)
        return np.searchsorted(inner, points, side="right")

    def _counts_before(self, sequences: int) -> Integers:
        """Sequences of each domain among the first `sequences`, shape (domain,)."""
        wraps = floor_sum(sequences, UNIT, GOLDEN, self._shift)
        # A point lies below c exactly where taking c away borrows one more unit.
        below = [
            wraps - floor_sum(sequences, UNIT, GOLDEN, self._shift - bound)
            for bound in self._bounds[:-1]
        ]
        ends = np.array([0, *below, sequences], dtype=np.int64)
        return ends[1:] - ends[:-1]

    def _window_index(self, domain: int, ordinals: Integers) -> Integers:
        """Which window the j-th sequences of a domain read, shape (sequence,)."""
        windows = self._windows[domain]
        epochs, places = np.divmod(ordinals, windows)
        index = np.empty_like(places)
        for epoch in np.unique(epochs):
            rows = epochs == epoch
            key = _hash64(self.domains[domain], self.seed, int(epoch))
            index[rows] = permuted(places[rows], windows, key)
        return index


def permuted(places: Integers, size: int, key: int) -> Integers:
    """Where a keyed permutation of range(size) sends each place; memory does not grow with size.

    A Feistel network permutes the next even power of two; walking its cycle until the value
    is below `size` makes that a permutation of range(size).
    """
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    keys = [np.uint64(_hash64("round", key, i)) for i in range(FEISTEL_ROUNDS)]
    values = _feistel(places.astype(np.uint64), half_bits, keys)
    while (outside := values >= size).any():
        values[outside] = _feistel(values[outside], half_bits, keys)
    return values.astype(np.int64)


def _feistel(values: Words, half_bits: int, keys: list[np.uint64]) -> Words:
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << shift) | right


def _mix(words: Words) -> Words:
    """The finaliser of splitmix64 (Steele et al., OOPSLA 2014): every bit reaches every bit."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def floor_sum(terms: int, modulus: int, slope: int, offset: int) -> int:
    """Sum of floor((slope * i + offset) / modulus) for i in range(terms), exact, in O(log modulus).

    `offset` may be negative.
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


def _boundaries(shares: list[float]) -> list[int]:
    """Upper ends of the domains' intervals in units of 2^-64; the last is exactly 2^64."""
    exact = [Fraction(share) for share in shares]
    total = sum(exact)
    running, bounds = Fraction(0), []
    for share in exact:
        running += share
        bounds.append(int(running / total * UNIT))
    return [min(bound, UNIT - 1) for bound in bounds[:-1]] + [UNIT]


def _hash64(*parts: str | int) -> int:
    """A 64-bit number from names and numbers, the same on every machine."""
    digest = blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
