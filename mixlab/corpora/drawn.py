"""Windows that were drawn from a corpus, and the corpus of those alone (mixlab/rounds).

    drawn.parquet     columns domain, window; metadata "drawn" is JSON: from which corpus, with
                      which context, and what mixlab/rounds/drawing.py tells of it

A domain of the drawn corpus is a stream of its drawn windows, put end to end; so batches,
epochs, the ledger of consumed tokens and resuming are those of any other run. Validation is the
whole corpus's.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mixlab.corpora.files import file_sha256, write_atomically
from mixlab.corpora.placements import DocumentStream, Piece
from mixlab.corpora.sampling import TokenWindows
from mixlab.corpora.shards import TokenisedCorpus
from mixlab.corpora.turns import Integers
from mixlab.errors import DomainTooSmall, InvalidRecipe, MissingFile, TruncatedFile

DRAWN = b"drawn"
DRAWN_FILE = "drawn.parquet"  # in the folder of the run that trains on it
DRAWN_FROM = "/"  # between a corpus's fingerprint and that of what was drawn of it


@dataclass(frozen=True)
class DrawnSet:
    """What was drawn, as it lies in a file."""

    windows: Mapping[str, Integers]  # of each domain, rising
    context: int  # tokens of a window
    corpus: str  # fingerprint of the corpus that they are windows of
    told: Mapping[str, Any]  # what the mixture became, and how it was drawn; JSON-ready
    sha256: str  # of the file

    @classmethod
    def read(cls, file: Path) -> Self:
        """Raises MissingFile, and TruncatedFile for a file that is no drawn set."""
        if not file.is_file():
            raise MissingFile(f"There is no drawn set {file}; `mixlab train --rounds` makes it.")
        try:
            table = pq.read_table(file)
            told = json.loads((table.schema.metadata or {})[DRAWN])
            names = np.asarray(table["domain"].to_pylist(), dtype=object)
            windows = table["window"].to_numpy().astype(np.int64)
            found = {name: np.sort(windows[names == name]) for name in dict.fromkeys(names)}
            return cls(found, int(told["context"]), str(told["corpus"]), told, file_sha256(file))
        except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as problem:
            raise TruncatedFile(
                f"{file} can't be read as a drawn set ({problem!r:.200}); delete it, and draw "
                "again."
            ) from problem


def write_drawn(
    file: Path,
    windows: Mapping[str, Integers],
    *,
    context: int,
    corpus: str,
    told: Mapping[str, Any],
) -> None:
    """Write what was drawn of the corpus with that fingerprint; `told` is JSON-ready."""
    names = [name for name, numbers in windows.items() for _ in range(len(numbers))]
    columns = {
        "domain": pa.array(names, pa.string()).dictionary_encode(),
        "window": np.concatenate([*windows.values()]),
    }
    text = json.dumps({**told, "context": context, "corpus": corpus}, sort_keys=True)
    table = pa.table(columns).replace_schema_metadata({DRAWN: text})
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, lambda path: pq.write_table(table, path))


class DrawnCorpus:
    """A corpus whose training text is the drawn windows, for a run as any other.

    Raises InvalidRecipe where they were drawn from another corpus, or have another context.
    """

    def __init__(self, corpus: TokenisedCorpus, drawn: DrawnSet, *, context: int) -> None:
        if drawn.corpus != corpus.fingerprint:
            raise InvalidRecipe(
                "The windows were drawn from another corpus than the run's; draw again."
            )
        if drawn.context != context:
            raise InvalidRecipe(
                f"The windows were drawn with a context of {drawn.context}, but the recipe has "
                f"{context}; draw again, or take the context."
            )
        self._corpus, self._drawn = corpus, drawn
        self.domains = corpus.domains
        self.vocabulary = corpus.vocabulary

    @property
    def fingerprint(self) -> str:
        """The corpus's, with the drawn set's."""
        return f"{self._corpus.fingerprint}{DRAWN_FROM}{self._drawn.sha256}"

    def stream(self, domain: str, split: str) -> TokenWindows:
        """The drawn windows of a domain, or all of its validation text."""
        stream = self._corpus.stream(domain, split)
        if split != "train":
            return stream
        windows = self._drawn.windows.get(domain, np.empty(0, dtype=np.int64))
        return DrawnWindows(stream, windows * self._drawn.context, self._drawn.context)


class DrawnWindows:
    """Some windows of a stream as a stream of their own: window i is the one at `starts[i]`.

    Only whole windows can be read, with the token after each as its last target.
    Raises DomainTooSmall for a start beyond the stream.
    """

    def __init__(self, stream: TokenWindows, starts: Integers, context: int) -> None:
        if len(starts) and int(starts.max()) + context >= len(stream):
            raise DomainTooSmall(
                f"A drawn window begins at token {int(starts.max())}, but its domain has only "
                f"{len(stream)}; draw again."
            )
        self._stream, self._starts, self._context = stream, starts, context

    def __len__(self) -> int:
        # The last token is a target only, as in any stream.
        return len(self._starts) * self._context + 1

    def windows(self, starts: Integers, length: int) -> Integers:
        """The tokens of drawn windows, shape (window, length)."""
        places = np.asarray(starts, dtype=np.int64)
        self._check(places, length)
        return self._stream.windows(self._starts[places // self._context], length)

    def pieces(self, start: int, length: int) -> tuple[Piece, ...]:
        """The documents of a drawn window, where the stream knows them."""
        self._check(np.array([start]), length)
        if not isinstance(self._stream, DocumentStream):
            return ()
        return self._stream.pieces(int(self._starts[start // self._context]), length)

    def _check(self, places: Integers, length: int) -> None:
        if (places % self._context).any() or length > self._context + 1:
            raise IndexError(
                f"Drawn windows are read whole, {self._context} tokens and a target at a time."
            )
