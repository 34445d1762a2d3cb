"""Which documents' tokens fill a slot of a batch: what an audit of a run shows.

A placement is computed from the schedule, the corpus, the seed and the step, as the batch is
(mixlab/corpora/sampling.py); nothing is logged while a run goes on.
"""

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Piece:
    """Tokens of one document."""

    shard: str  # the token file, relative to the corpus's folder
    document: int  # its number in the shard, counted from 0
    first_token: int  # offset in the document of the first token
    last_token: int  # and of the last one, itself inside


def pieces_of(shard: str, starts: Offsets, first: int, stop: int) -> list[Piece]:
    """The documents of a shard's tokens first to stop - 1, `starts` being where all begin."""
    begin, end = np.searchsorted(starts, [first, stop - 1], side="right").tolist()
    own = starts[begin - 1 : end].tolist()
    return [
        Piece(shard, number, max(first, at) - at, until - 1 - at)
        for number, (at, until) in enumerate(pairwise([*own, stop]), start=begin - 1)
    ]


@dataclass(frozen=True)
class Placement:
    """What fills one row of a batch.

    The row's inputs are the domain's tokens first_token to end_token - 1; its targets are those
    one further on. `pieces` cover both, so context + 1 tokens, of which the last is the first
    input of the domain's next window.
    """

    row: int
    domain: str
    epoch: int  # counted from 0
    window: int  # number in the domain's stream, whatever the epoch's order
    first_token: int
    end_token: int
    pieces: tuple[Piece, ...]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return asdict(self)


@runtime_checkable
class DocumentStream(Protocol):
    """A stream of tokens that knows its documents."""

    def pieces(self, start: int, length: int) -> tuple[Piece, ...]:
        """The documents that tokens start to start + length belong to, in order."""
        ...
