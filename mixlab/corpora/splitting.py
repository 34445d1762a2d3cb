"""Which documents train, which validate, and which are dropped as exact duplicates.

Duplicates: a document is known by a 128-bit hash of its text. Of equal documents the first
one stays, over all domains in the order given, so that no text trains under two names (its
epochs would be more than the mixture says) and none validates one domain and trains another.

Split: a document validates if the seeded hash of its text, a number in [0, 1), lies below a
threshold: membership depends on the text alone, not on its place or neighbours. The threshold
is the wanted fraction, unless that puts less than half or more than twice of it into
validation among the domain's first megabytes (a small domain); then it is the hash value
that comes nearest, with at least one document on either side.

Few documents: where the first 32 MiB of a domain (or all of it) hold fewer than 64 documents,
documents are cut at line ends into pieces, which then count as documents. So a domain may be
one long text file.

Memory: 16 bytes per document, 48 while sorting, and at most 110 MB for recent hashes.
Limits: exact duplicates only; a text that is part of another is not found. Pieces of one
document may stand in both splits, as its neighbouring pages.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain

import numpy as np
import numpy.typing as npt

from mixlab.errors import DomainTooSmall

DIGEST_BYTES = 16
RECENT_DIGESTS = 1 << 20
HEAD_BYTES = 8 << 20
LONGEST_HEAD_BYTES = 32 << 20
MIN_DOCUMENTS = 64
PIECES = 256
MIN_PIECE_BYTES = 4096

# Every digest has 16 bytes, so NumPy's padding with zero bytes is never ambiguous.
Digests = npt.NDArray[np.bytes_]
Item = tuple[bytes, str]  # digest and text


def digest_of(text: str) -> bytes:
    """128 bits that name a text."""
    return blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


def split_value(digest: bytes, seed: int) -> float:
    """A number in [0, 1) that depends on a text and the seed only."""
    keyed = blake2b(digest, digest_size=8, key=str(seed).encode()).digest()
    # 53 bits, so that rounding never gives 1.
    return (int.from_bytes(keyed, "big") >> 11) / (1 << 53)


class SeenDigests:
    """The digests of a domain on top of those of earlier domains (sorted arrays)."""

    def __init__(self, earlier: Sequence[Digests] = ()) -> None:
        self._earlier = list(earlier)
        self._sorted = _digests(())
        self._recent: set[bytes] = set()

    def add(self, digest: bytes) -> bool:
        """Add one; whether it is new in this domain and the earlier ones."""
        if digest in self._recent or any(
            _holds(layer, digest) for layer in (self._sorted, *self._earlier)
        ):
            return False
        self._recent.add(digest)
        if len(self._recent) >= RECENT_DIGESTS:
            self._sorted = self.own()
            self._recent = set()
        return True

    def own(self) -> Digests:
        """The digests of this domain, sorted, shape (digest,)."""
        return np.sort(np.concatenate([self._sorted, _digests(self._recent)]))


@dataclass
class Tally:
    """What was counted while documents flowed."""

    kept: int = 0  # documents, or pieces of them
    duplicates: int = 0


@dataclass(frozen=True)
class Document:
    """A text, and whether it validates."""

    text: str
    validates: bool


def split_documents(
    texts: Iterable[str],
    *,
    domain: str,
    seen: SeenDigests,
    tally: Tally,
    validation_fraction: float,
    seed: int,
) -> Iterator[Document]:
    """Distinct documents in order, each with its split. Yields nothing for no document.

    Raises DomainTooSmall where only one short document is left.
    """
    distinct = _distinct(texts, seen, tally)
    head = _head(distinct)
    if head and len(head) < MIN_DOCUMENTS:
        limit = max(MIN_PIECE_BYTES, sum(_size(text) for _, text in head) // PIECES)
        pieces = _pieces(chain(head, distinct), limit, seen, tally)
        head, distinct = _head(pieces), pieces
    if not head:
        return
    if len(head) == 1:
        raise DomainTooSmall(
            f"Domain {domain!r} has a single document of {_size(head[0][1])} bytes, which can't be "
            f"split into training and validation; give more documents, or at least "
            f"{2 * MIN_PIECE_BYTES} bytes of text."
        )
    values = [(split_value(digest, seed), _size(text)) for digest, text in head]
    threshold = split_threshold(values, validation_fraction)
    for digest, text in chain(head, distinct):
        tally.kept += 1
        yield Document(text, split_value(digest, seed) < threshold)


def split_threshold(values: Sequence[tuple[float, int]], fraction: float) -> float:
    """Below which split value a document validates; `values` are (split value, bytes).

    The fraction itself, unless that gives validation less than half or more than twice of it.
    """
    total = sum(size for _, size in values)
    share = sum(size for value, size in values if value < fraction) / max(total, 1)
    if 0.5 * fraction <= share <= min(2 * fraction, 0.5 + 0.5 * fraction):
        return fraction
    ordered = sorted(values)
    below = np.cumsum([size for _, size in ordered])[:-1]  # bytes below each next value
    return ordered[int(np.argmin(np.abs(below - fraction * total))) + 1][0]


def cut_text(text: str, limit: int) -> Iterator[str]:
    """Pieces of at most `limit` characters that join to the text, cut at line ends if possible."""
    start = 0
    while len(text) - start > limit:
        end = text.rfind("\n", start, start + limit) + 1 or start + limit
        yield text[start:end]
        start = end
    yield text[start:]


def _distinct(texts: Iterable[str], seen: SeenDigests, tally: Tally) -> Iterator[Item]:
    for text in texts:
        digest = digest_of(text)
        if seen.add(digest):
            yield digest, text
        else:
            tally.duplicates += 1


def _pieces(items: Iterable[Item], limit: int, seen: SeenDigests, tally: Tally) -> Iterator[Item]:
    for digest, text in items:
        if len(text) <= limit:
            yield digest, text  # already known as a whole
        else:
            yield from _distinct(filter(str.strip, cut_text(text, limit)), seen, tally)


def _head(items: Iterator[Item]) -> list[Item]:
    """The first items: 8 MiB of them, or more until they are enough, up to 32 MiB."""
    head: list[Item] = []
    size = 0
    for item in items:
        head.append(item)
        size += _size(item[1])
        if size >= (HEAD_BYTES if len(head) >= MIN_DOCUMENTS else LONGEST_HEAD_BYTES):
            break
    return head


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _digests(values: Iterable[bytes]) -> Digests:
    return np.array(list(values), dtype=f"S{DIGEST_BYTES}")


def _holds(layer: Digests, digest: bytes) -> bool:
    wanted = np.array(digest, dtype=layer.dtype)
    place = int(np.searchsorted(layer, wanted))
    return place < len(layer) and bool(layer[place] == wanted)
