"""Counting adjacent pairs on one core, beside np.unique over 64-bit pair ids.

    python -m benchmarks.entropy_counts --tokens 20000000 --vocabulary 32768

The two alternate in one run, so that a busy machine slows both. Tokens are a seeded
synthetic text: Zipf frequencies, every id with preferred successors, documents of 1,000
tokens. `--file` measures ids of your own (.npy, uint16 or uint32).
"""

import argparse
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import numpy.typing as npt

from mixlab.entropy.counts import PairCounts

DOCUMENT_TOKENS = 1000
# With these, 20M tokens of a 32k vocabulary hold 2.1M distinct pairs; code and
# documentation under a BPE of that size hold 1.3M, and the ratio is the same.
SUCCESSOR_SHARE = 0.85
SUCCESSORS = 64


def synthetic_text(
    tokens: int, vocabulary: int, *, seed: int = 0
) -> npt.NDArray[np.unsignedinteger]:
    """Ids, shape (token,): a Markov chain whose ids keep Zipf frequencies."""
    rng = np.random.default_rng(seed)
    cumulative = np.cumsum(1 / np.arange(1, vocabulary + 1))
    cumulative /= cumulative[-1]
    names = rng.permutation(vocabulary)
    documents = max(1, tokens // DOCUMENT_TOKENS)
    preferred = np.searchsorted(cumulative, rng.random((vocabulary, SUCCESSORS)))
    ranks = np.searchsorted(cumulative, rng.random(documents))
    text = np.empty((documents, -(-tokens // documents)), dtype=np.uint32)
    for column in text.T:
        column[:] = names[ranks]
        choice = (SUCCESSORS ** rng.random(documents)).astype(np.int64) % SUCCESSORS
        follows = rng.random(documents) < SUCCESSOR_SHARE
        free = np.searchsorted(cumulative, rng.random(documents))
        ranks = np.where(follows, preferred[ranks, choice], free)
    flat = text.reshape(-1)[:tokens]
    return flat.astype(np.uint16) if vocabulary <= 1 << 16 else flat


def unique_pairs(tokens: npt.NDArray[np.unsignedinteger], vocabulary: int) -> int:
    """The straightforward way. Returns the number of distinct pairs."""
    ids = tokens[:-1].astype(np.int64) * vocabulary + tokens[1:]
    keys, _ = np.unique(ids, return_counts=True)
    return len(keys)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--tokens", type=int, default=20_000_000)
    parser.add_argument("--vocabulary", type=int, default=32_768)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--file", type=Path, help="token ids as .npy instead of synthetic ones")
    options = parser.parse_args()
    if options.file:
        tokens = np.load(options.file)[: options.tokens]
    else:
        tokens = synthetic_text(options.tokens, options.vocabulary)
    vocabulary = int(tokens.max()) + 1
    plain, ours = [], []
    for _ in range(options.repeats):
        begun = perf_counter()
        expected = unique_pairs(tokens, vocabulary)
        between = perf_counter()
        found = PairCounts.from_shard(tokens, [0])
        ours.append(perf_counter() - between)
        plain.append(between - begun)
        if len(found.keys) != expected:
            raise SystemExit(f"Counts differ: {len(found.keys)} and {expected} distinct pairs.")
    ratio = median(a / b for a, b in zip(plain, ours, strict=True))
    print(  # noqa: T201
        f"{len(tokens):,} tokens, vocabulary {vocabulary:,}, {expected:,} distinct pairs, "
        f"median of {options.repeats}: np.unique {median(plain):.3f} s, "
        f"PairCounts {median(ours):.3f} s, {ratio:.2f}x as fast"
    )


if __name__ == "__main__":
    main()
