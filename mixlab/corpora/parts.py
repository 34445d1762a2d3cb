"""A domain's documents encoded and written in parts, each of which survives a crash.

    part-00000.json     names the part's shards by hash; written behind them
    domain.json         counts, when all parts are there
    digests.npy         16-byte hashes of the domain's documents, for the domains after it

A part ends with the first batch that fills its training shard, so where parts end depends on
the documents alone, and a resumed run writes the same bytes as one that was never stopped.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from mixlab.corpora.files import write_json
from mixlab.corpora.shards import (
    SPLITS,
    DomainEntry,
    Shard,
    ShardEntry,
    Tokens,
    token_dtype,
    write_shard,
)
from mixlab.corpora.splitting import Document, cut_text
from mixlab.corpora.tokenizer import end_of_text_id, vocabulary_of

BATCH_CHARACTERS = 2 << 20
# Longer texts are encoded in pieces: memory stays flat and all cores get work.
ENCODED_PIECE_CHARACTERS = 1 << 17
DOMAIN_FILE = "domain.json"


@dataclass(frozen=True)
class Part:
    """What one part file names."""

    documents: int
    shards: Mapping[str, ShardEntry | None]  # by split; None where it got no document

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        shards = {split: entry and asdict(entry) for split, entry in self.shards.items()}
        return {"documents": self.documents, "shards": shards}

    @classmethod
    def read(cls, path: Path) -> "Part | None":
        """The part that a file names, None where there is none or it is damaged."""
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            entries = {split: value["shards"][split] for split in SPLITS}
            shards = {split: ShardEntry(**e) if e else None for split, e in entries.items()}
            return cls(documents=value["documents"], shards=shards)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def intact(self, folder: Path) -> bool:
        """Whether its shards are there, with the hashes that it names."""
        return all(Shard(folder, entry).intact() for entry in self.shards.values() if entry)


@dataclass
class _Buffer:
    """Tokens of one split that are not written yet."""

    arrays: list[Tokens] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(map(len, self.arrays))

    def write(self, folder: Path, stem: str) -> ShardEntry | None:
        """The shard, or None for no document."""
        if not self.lengths:
            return None
        starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])
        return write_shard(folder, stem, np.concatenate(self.arrays), starts)


def write_parts(
    documents: Iterator[Document],
    corpus: Path,
    name: str,
    *,
    tokenizer: Tokenizer,
    shard_tokens: int,
) -> list[Part]:
    """All parts of the domain in `corpus / name`; whole ones that are there stay as they are."""
    parts = finished_parts(corpus, name)
    for _ in islice(documents, sum(part.documents for part in parts)):
        pass
    dtype = token_dtype(vocabulary_of(tokenizer))
    end = end_of_text_id(tokenizer)
    buffers = {split: _Buffer() for split in SPLITS}
    count = 0

    def finish() -> None:
        nonlocal buffers, count
        number = f"{len(parts):05d}"
        shards = {s: buffers[s].write(corpus, f"{name}/{s}-{number}") for s in SPLITS}
        parts.append(Part(count, shards))
        write_json(corpus / name / f"part-{number}.json", parts[-1].to_dict())
        buffers, count = {split: _Buffer() for split in SPLITS}, 0

    # Short shards get short batches, so that they don't overshoot by much.
    for batch in _batches(documents, min(BATCH_CHARACTERS, shard_tokens)):
        encoded = encode([document.text for document in batch], tokenizer, dtype, end)
        for document, tokens in zip(batch, encoded, strict=True):
            buffer = buffers["validation" if document.validates else "train"]
            buffer.arrays.append(tokens)
            buffer.lengths.append(len(tokens))
        count += len(batch)
        if len(buffers["train"]) >= shard_tokens:
            finish()
    if count:
        finish()
    return parts


def finished_parts(corpus: Path, name: str) -> list[Part]:
    """The parts from the first one on that are whole; what lies behind them is removed."""
    parts: list[Part] = []
    folder = corpus / name
    while part := Part.read(folder / f"part-{len(parts):05d}.json"):
        if not part.intact(corpus):
            break
        parts.append(part)
    kept = {f"part-{number:05d}.json" for number in range(len(parts))}
    kept |= {
        Path(file).name
        for part in parts
        for entry in part.shards.values()
        if entry
        for file in (entry.file, entry.starts_file)
    }
    for path in folder.iterdir():
        if path.name not in kept and path.name != "source.json":
            path.unlink()
    return parts


def entry_of(domain: str, parts: Sequence[Part], summary: Mapping[str, int]) -> DomainEntry:
    """The domain as the manifest names it."""
    by_split = {split: tuple(e for p in parts if (e := p.shards[split])) for split in SPLITS}
    return DomainEntry(domain, dict(summary), by_split["train"], by_split["validation"])


def encode(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    dtype: type[np.uint16] | type[np.uint32],
    end_of_text: int,
) -> Iterator[Tokens]:
    """Each text's ids, shape (token,), with the end-of-text id behind them."""
    pieces = [list(cut_text(text, ENCODED_PIECE_CHARACTERS)) for text in texts]
    flat = [piece for group in pieces for piece in group]
    encodings = iter(tokenizer.encode_batch_fast(flat, add_special_tokens=False))
    for group in pieces:
        ids: list[int] = []
        for encoding in islice(encodings, len(group)):
            ids += encoding.ids
        ids.append(end_of_text)
        yield np.array(ids, dtype=dtype)


def _batches(documents: Iterable[Document], characters: int) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
