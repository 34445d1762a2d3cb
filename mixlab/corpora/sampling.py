"""Batches as a pure function of (mixture schedule, corpus, seed, step), and what they consume.

Step s holds the sequences after those of all earlier steps, however large each was. Which
domain a sequence takes is told by its number (mixlab/corpora/turns.py); the j-th sequence of a
domain is window perm[j mod n] of its n windows, with a new permutation for every epoch j div n.

All of it is integer arithmetic, and permutations are Feistel networks, which need no memory
however large the domain is. So nothing is replayed to resume a run or to audit one, no result
depends on a library's random stream, and readers that share a step's rows need no agreement
but the seed.

A run may begin where another has ended: with `first_token` step 0 takes the sequences after that
many tokens of the stream. Turns, schedule, epochs and `max_epochs` are those of the whole stream;
steps, and the tokens and domains that they consumed, are the run's own.

A domain that is used up starts its next epoch. With `max_epochs` no step takes a domain beyond
so many: a run ends before the first step that would (`last_step`), and that step is refused.

Sources: Feistel with cycle walking is Black & Rogaway, CT-RSA 2002.
Limits: windows are cut at multiples of the context and may cross documents; a tail shorter
than one window is not trained on.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mixlab.corpora.placements import DocumentStream, Placement
from mixlab.corpora.turns import Integers, Turns
from mixlab.errors import DomainTooSmall, InvalidMixture, InvalidRecipe
from mixlab.mixture import Mixture
from mixlab.schedules import MixtureSchedule

Words = npt.NDArray[np.uint64]
Rows = slice | Sequence[int] | npt.NDArray[Any]

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

    Everything depends on the schedule, the seed and the step alone, not on earlier calls. Two
    schedules with one seed read each domain in the same order, so that runs differ by their
    shares and not by their luck.

    Steps are counted from 0: step s makes the weight update s + 1. A step has `batch_sequences`
    sequences, or those of the last of `batch_stages` that has begun, each (update counted from
    1, sequences) as in a recipe. A sequence counts as `context` tokens. `first_token` says how
    many tokens of the stream earlier runs have read, whole sequences.

    Raises InvalidMixture for a domain that has no stream, DomainTooSmall for a domain with a
    positive share and fewer than context + 1 tokens, and InvalidRecipe for a `first_token` within
    a sequence.
    """

    def __init__(
        self,
        streams: Mapping[str, TokenWindows],
        mixture: Mixture | MixtureSchedule,
        *,
        context: int,
        batch_sequences: int,
        seed: int,
        batch_stages: Sequence[tuple[int, int]] = (),
        max_epochs: float | None = None,
        first_token: int = 0,
    ) -> None:
        self.schedule = MixtureSchedule.of(mixture)
        # By name, so that equal mixtures written in another order give equal batches.
        self.domains = self.schedule.domains
        self._check_names(streams)
        self.context = context
        self.seed = int(seed)  # a NumPy integer would be written, and so hashed, in another way
        self.max_epochs = _checked_epochs(max_epochs)
        self._begin = _whole_sequences(first_token, context)
        self._stages = [(0, batch_sequences), *((update - 1, n) for update, n in batch_stages)]
        self._streams = [streams[name] for name in self.domains]
        self._windows = np.array([self._count_windows(n, streams[n]) for n in self.domains])
        self._turns = Turns(
            self.schedule, self.domains, context=context, shift=_hash64("shift", self.seed)
        )

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

    def sequences(self, step: int) -> int:
        """How many sequences the step has."""
        return [n for first, n in self._stages if first <= step][-1]

    def tokens_before(self, step: int) -> int:
        """Tokens of all earlier steps of the run."""
        return (self._first(step) - self._begin) * self.context

    @property
    def first_token(self) -> int:
        """Tokens of the stream before the run's first."""
        return self._begin * self.context

    def batch(self, step: int, rows: Rows | None = None) -> Integers:
        """The tokens of one weight update, or of some of its rows, reading only those.

        Shape (row, context + 1): inputs are [:, :-1] and targets [:, 1:]. Rows are chosen as
        an array's are; those of one reader and of another make up the whole batch.
        Raises DomainTooSmall for a step that `max_epochs` forbids, IndexError for unknown rows.
        """
        order, _, windows = self.slots(step, rows)
        tokens = np.empty((len(order), self.context + 1), dtype=np.int64)
        for i in np.unique(order):
            here = np.flatnonzero(order == i)
            starts = windows[here] * self.context
            tokens[here] = self._streams[i].windows(starts, self.context + 1)
        return tokens

    def placements(self, step: int, rows: Rows | None = None) -> list[Placement]:
        """What fills each row of `batch(step, rows)`: the tokens' place in domain and documents.

        Documents are named where the streams know them (`TokenStream` does).
        """
        numbers = np.arange(self.sequences(step))[slice(None) if rows is None else rows]
        order, epochs, windows = (found.tolist() for found in self.slots(step, rows))
        return [
            self._placement(*slot)
            for slot in zip(numbers.tolist(), order, epochs, windows, strict=True)
        ]

    def _placement(self, row: int, domain: int, epoch: int, window: int) -> Placement:
        stream, start = self._streams[domain], window * self.context
        pieces = (
            stream.pieces(start, self.context + 1) if isinstance(stream, DocumentStream) else ()
        )
        return Placement(
            row, self.domains[domain], epoch, window, start, start + self.context, pieces
        )

    @property
    def epoch_tokens(self) -> dict[str, int]:
        """Tokens that one epoch of each domain has: its tokens but the tail."""
        return dict(zip(self.domains, (self._windows * self.context).tolist(), strict=True))

    def consumed(self, from_step: int, to_step: int) -> dict[str, int]:
        """Tokens of each domain in steps from_step to to_step - 1, without replaying them.

        Domains that the mixture leaves out are not named.
        """
        counts = (self._counts_before(to_step) - self._counts_before(from_step)) * self.context
        return dict(zip(self.domains, counts.tolist(), strict=True))

    def epochs(self, from_step: int, to_step: int) -> dict[str, list[dict[str, int]]]:
        """The same by epoch, counted from 0: `epoch` and its `tokens`, those with any.

        An epoch of a domain has (its tokens - 1) // context windows of `context` tokens each.
        """
        before, after = self._counts_before(from_step), self._counts_before(to_step)
        bounds = zip(
            self.domains, self._windows.tolist(), before.tolist(), after.tolist(), strict=True
        )
        return {
            name: [
                {
                    "epoch": epoch,
                    "tokens": (min(end, (epoch + 1) * size) - max(begin, epoch * size))
                    * self.context,
                }
                for epoch in range(begin // size, -(-end // size) if end > begin else 0)
            ]
            for name, size, begin, end in bounds
        }

    def last_step(self, steps: int) -> int | None:
        """Of so many steps the first that would take a domain beyond `max_epochs`; else None.

        So a run of `steps` updates makes this many of them, and none for 0.
        """
        found = bisect_left(range(steps), True, key=lambda step: bool(self.beyond(step)))
        return found if found < steps else None

    def beyond(self, step: int) -> tuple[str, ...]:
        """Domains that are taken beyond `max_epochs` once this step is done."""
        if self.max_epochs is None:
            return ()
        over = self._counts_before(step + 1) > self.max_epochs * self._windows
        return tuple(name for name, is_over in zip(self.domains, over, strict=True) if is_over)

    def _first(self, step: int) -> int:
        """The number in the stream of the step's first sequence."""
        ends = [min(first, step) for first, _ in self._stages[1:]] + [step]
        return self._begin + sum(
            (end - min(first, step)) * sequences
            for (first, sequences), end in zip(self._stages, ends, strict=True)
        )

    def _counts_before(self, step: int) -> Integers:
        """Sequences of each domain before the step, in the whole stream, shape (domain,)."""
        return self._turns.counts_before(self._first(step))

    def slots(self, step: int, rows: Rows | None = None) -> tuple[Integers, Integers, Integers]:
        """Place in `domains`, epoch and window of each row of `batch(step, rows)`, shape (row,)."""
        self._check_epochs(step)
        order = self._turns.domains_of(self._first(step), self.sequences(step))
        ordinals = np.empty_like(order)
        for i, used in enumerate(self._counts_before(step).tolist()):
            here = np.flatnonzero(order == i)
            ordinals[here] = used + np.arange(len(here))
        if rows is not None:
            order, ordinals = order[rows], ordinals[rows]
        sizes = self._windows[order]
        epochs, places = np.divmod(ordinals, sizes)
        return order, epochs, permuted(places, sizes, self._keys(order, epochs))

    def _keys(self, order: Integers, epochs: Integers) -> Words:
        """The permutation's key of each row, shape (row,)."""
        pairs = zip(order.tolist(), epochs.tolist(), strict=True)
        keys = [_hash64(self.domains[domain], self.seed, epoch) for domain, epoch in pairs]
        return np.array(keys, dtype=np.uint64)

    def _check_epochs(self, step: int) -> None:
        if domains := self.beyond(step):
            raise DomainTooSmall(
                f"Step {step} would read {', '.join(domains)} for more than {self.max_epochs:g} "
                "epochs; stop before it, or allow more epochs, or give a smaller share."
            )


def permuted(places: Integers, sizes: Integers | int, keys: Words | int) -> Integers:
    """Where a keyed permutation of range(size) sends each place; memory does not grow with size.

    Sizes and keys may differ from place to place. A Feistel network permutes the next even
    power of two; walking its cycle until the value is below `size` makes that a permutation of
    range(size).
    """
    values = places.astype(np.uint64)
    limits: Words = np.broadcast_to(np.asarray(sizes, dtype=np.uint64), values.shape)
    rounds = _rounds(np.broadcast_to(np.asarray(keys, dtype=np.uint64), values.shape))
    bits = _half_bits(limits)
    outside = np.arange(len(values))
    while len(outside):
        values[outside] = _feistel(values[outside], bits[outside], rounds[:, outside])
        outside = outside[values[outside] >= limits[outside]]
    return values.astype(np.int64)


def _half_bits(sizes: Words) -> Words:
    """Half the bits that hold every number below the size, rounded up, at least 1."""
    found, inverse = np.unique(sizes, return_inverse=True)
    bits = [max(1, ((size - 1).bit_length() + 1) // 2) for size in found.tolist()]
    return np.array(bits, dtype=np.uint64)[inverse]


def _rounds(keys: Words) -> Words:
    """The keys of the network's rounds, shape (round, place)."""
    found, inverse = np.unique(keys, return_inverse=True)
    each = np.array([_round_keys(key) for key in found.tolist()], dtype=np.uint64)
    return each.reshape(-1, FEISTEL_ROUNDS).T[:, inverse]


@lru_cache(maxsize=4096)
def _round_keys(key: int) -> tuple[int, ...]:
    return tuple(_hash64("round", key, i) for i in range(FEISTEL_ROUNDS))


def _feistel(values: Words, half_bits: Words, rounds: Words) -> Words:
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = values >> half_bits, values & mask
    for keys in rounds:
        left, right = right, left ^ (_mix(right ^ keys) & mask)
    return (left << half_bits) | right


def _mix(words: Words) -> Words:
    """The finaliser of splitmix64 (Steele et al., OOPSLA 2014): every bit reaches every bit."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _whole_sequences(tokens: int, context: int) -> int:
    """Tokens as sequences. Raises InvalidRecipe for a part of one."""
    if tokens < 0 or tokens % context:
        raise InvalidRecipe(
            f"A run begins at a multiple of its context of {context} tokens, from 0 on, not at "
            f"{tokens}; take {max(0, tokens) // context * context}."
        )
    return tokens // context


def _checked_epochs(max_epochs: float | None) -> float | None:
    if max_epochs is not None and not max_epochs > 0:
        raise InvalidRecipe(f"max_epochs must be above 0, not {max_epochs}.")
    return max_epochs


@lru_cache(maxsize=4096)
def _hash64(*parts: str | int) -> int:
    """A 64-bit number from names and numbers, the same on every machine."""
    digest = blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
