"""The order in which tokens are kept, and how much of a corpus the first so many cover.

First what must stay (pieces.py), then the most frequent piece, the second and so on, the parts
that a piece is merged from before the piece itself. Any beginning of that order is a tokenizer,
and a smaller one is part of each larger one. Ties, such as pieces that never occur, go by id,
which of a trained tokenizer is the order in which it was learned.

Source: YuchuanTian/RethinkTinyLM, src/step3 (specials, then the most frequent pieces, the others
deleted); the parts are ours, since it compresses tokenizers without merges.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from mixlab.compressing.pieces import Pieces, pieces_of
from mixlab.errors import InvalidCorpus
from mixlab.mixture import Array

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ranking:
    """Every token of a tokenizer in the order in which it is kept."""

    order: Ids  # (token,)
    covered: Array  # (token,), share of the corpus that the tokens up to this one are
    fixed: int  # how many must stay

    @property
    def size(self) -> int:
        """How many tokens there are."""
        return len(self.order)

    def coverage(self, vocabulary: int) -> float:
        """The share of the corpus's tokens that are among the first so many."""
        _check_size(vocabulary, self.fixed, self.size)
        return float(self.covered[vocabulary - 1])

    def least(self, coverage: float) -> int:
        """The smallest vocabulary that covers more than that share."""
        within = int(np.searchsorted(self.covered, coverage, side="right")) + 1
        return min(max(within, self.fixed), self.size)

    def kept(self, vocabulary: int) -> Ids:
        """Ids of the first so many tokens, ascending."""
        _check_size(vocabulary, self.fixed, self.size)
        return np.sort(self.order[:vocabulary])


def check_vocabulary(tokenizer: Tokenizer, vocabulary: int) -> None:
    """Raise InvalidCorpus where no part of the tokenizer has that size, before any counting."""
    pieces = pieces_of(tokenizer)
    _check_size(vocabulary, len(pieces.fixed), len(pieces.ids))


def _check_size(vocabulary: int, fixed: int, size: int) -> None:
    if not fixed <= vocabulary <= size:
        raise InvalidCorpus(
            f"A vocabulary of {vocabulary:,} is no part of this tokenizer: {fixed:,} tokens must "
            f"stay (its alphabet and special tokens), and it has {size:,}; ask for a size between."
        )


def rank(tokenizer: Tokenizer, counts: npt.ArrayLike) -> Ranking:
    """Rank a tokenizer's tokens by counts, or shares, of shape (token,).

    Raises InvalidCorpus for counts of another tokenizer, for counts that are negative or all 0,
    and for a kind of tokenizer that can't be compressed.
    """
    pieces = pieces_of(tokenizer)
    shares = _checked(np.asarray(counts, dtype=np.float64), pieces)
    order = np.array(_order(pieces, shares), dtype=np.int64)
    covered = np.cumsum(shares[order])
    # Rounding must not leave the whole at less than 1.
    return Ranking(order, covered / covered[-1], len(pieces.fixed))


def _checked(counts: Array, pieces: Pieces) -> Array:
    """Shares of the counts."""
    if counts.shape != (pieces.rows,):
        raise InvalidCorpus(
            f"The tokenizer has {pieces.rows:,} ids, but the counts have the shape "
            f"{counts.shape}; count a corpus that this tokenizer made."
        )
    total = counts.sum()
    if not np.isfinite(total) or total <= 0 or counts.min() < 0:
        raise InvalidCorpus(
            f"Counts must be finite, at least 0, and not all 0; these sum to {total:g}, the least "
            f"is {counts.min():g}."
        )
    shares: Array = counts / total
    return shares


def _order(pieces: Pieces, shares: Array) -> list[int]:
    ids = np.array(sorted(pieces.ids.values()), dtype=np.int64)
    kept = dict.fromkeys(sorted(pieces.fixed))
    for token in ids[np.argsort(-shares[ids], kind="stable")].tolist():
        _keep(token, pieces.parts, kept)
    return list(kept)


def _keep(token: int, parts: Mapping[int, tuple[int, int]], kept: dict[int, None]) -> None:
    """Add a token, its parts before it."""
    waiting = [token]
    while waiting:
        missing = [part for part in parts.get(waiting[-1], ()) if part not in kept]
        if missing and waiting[-1] not in kept:
            waiting += missing
        else:
            kept.setdefault(waiting.pop())
