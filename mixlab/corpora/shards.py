"""Tokens on disk: memory-mapped shards per domain and split, under one JSON manifest.

    folder/manifest.json                  counts, hashes and settings; written last, atomically
    folder/tokenizer.json                 the tokenizer that made the tokens
    folder/d000/train-00000.npy           tokens, uint16 where the vocabulary allows, else uint32
    folder/d000/train-00000.starts.npy    int64 offset of every document's first token
    folder/d000/validation-00000.npy ...

Domain folders are numbered, because a domain's name may hold any character.
Every document ends in the end-of-text token, which counts as a token of its
document. A stream is all shards of a domain and split, end to end.

Limits: shards are read-only; a corpus is changed by tokenising it again.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mixlab.corpora.files import file_sha256, write_atomically, write_json
from mixlab.corpora.placements import Piece, pieces_of
from mixlab.errors import InvalidCorpus, MissingFile, TruncatedFile

Tokens = npt.NDArray[np.unsignedinteger[Any]]  # uint16 or uint32
Offsets = npt.NDArray[np.int64]

FORMAT = 1
MANIFEST = "manifest.json"
SPLITS = ("train", "validation")


def token_dtype(vocabulary: int) -> type[np.uint16] | type[np.uint32]:
    """The smallest type that holds every id of a vocabulary of that size."""
    return np.uint16 if vocabulary <= 1 << 16 else np.uint32


@dataclass(frozen=True)
class ShardEntry:
    """One shard as the manifest names it; files are relative to the corpus folder."""

    file: str
    starts_file: str
    tokens: int
    documents: int
    sha256: str
    starts_sha256: str


@dataclass(frozen=True)
class Shard:
    """One shard of a domain and split."""

    folder: Path
    entry: ShardEntry

    def tokens(self) -> Tokens:
        """The tokens, shape (token,), memory-mapped and read-only.

        Raises TruncatedFile where the file is missing, damaged or of another length.
        """
        tokens: Tokens = self._load(self.entry.file, self.entry.tokens)
        return tokens

    def starts(self) -> Offsets:
        """Offsets of the documents' first tokens, shape (document,), ascending from 0."""
        starts: Offsets = self._load(self.entry.starts_file, self.entry.documents)
        return starts

    def intact(self) -> bool:
        """Whether both files are there with the hashes of the manifest."""
        expected = {
            self.entry.file: self.entry.sha256,
            self.entry.starts_file: self.entry.starts_sha256,
        }
        paths = {self.folder / name: sha256 for name, sha256 in expected.items()}
        return all(p.is_file() and file_sha256(p) == sha256 for p, sha256 in paths.items())

    def _load(self, name: str, expected: int) -> Any:
        path = self.folder / name
        try:
            array = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise TruncatedFile(f"Shard {path} can't be read ({error}); tokenise again.") from error
        if array.shape != (expected,):
            raise TruncatedFile(
                f"Shard {path} has shape {array.shape}, but the manifest says {expected}; "
                "tokenise again."
            )
        return array


def write_shard(
    folder: Path, stem: str, tokens: Tokens, starts: Offsets | Sequence[int]
) -> ShardEntry:
    """Write `<stem>.npy` and `<stem>.starts.npy` below the corpus folder, atomically."""
    file, starts_file = f"{stem}.npy", f"{stem}.starts.npy"
    offsets = np.asarray(starts, dtype=np.int64)
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / file, lambda path: np.save(path, tokens))
    write_atomically(folder / starts_file, lambda path: np.save(path, offsets))
    return ShardEntry(
        file=file,
        starts_file=starts_file,
        tokens=len(tokens),
        documents=len(offsets),
        sha256=file_sha256(folder / file),
        starts_sha256=file_sha256(folder / starts_file),
    )


@dataclass(frozen=True)
class DomainEntry:
    """One domain as the manifest names it."""

    name: str
    summary: Mapping[str, int]
    train: tuple[ShardEntry, ...]
    validation: tuple[ShardEntry, ...]

    def shards(self, split: str) -> tuple[ShardEntry, ...]:
        """The shards of "train" or "validation"."""
        if split not in SPLITS:
            raise InvalidCorpus(f"There is no split {split!r}; splits are train and validation.")
        return self.train if split == "train" else self.validation

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "DomainEntry":
        """What `dataclasses.asdict` wrote."""
        return cls(
            name=value["name"],
            summary=dict(value["summary"]),
            train=tuple(ShardEntry(**entry) for entry in value["train"]),
            validation=tuple(ShardEntry(**entry) for entry in value["validation"]),
        )


class TokenStream:
    """The tokens of one domain and split, end to end over its shards."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._files = list(shards)
        # Plain arrays over the mapped memory, since a slice of np.memmap costs several times more.
        self._shards: list[Tokens] = [np.asarray(shard.tokens()) for shard in shards]
        self._ends = np.cumsum([len(tokens) for tokens in self._shards], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def window(self, start: int, length: int) -> Tokens:
        """Tokens start to start + length, shape (length,), crossing shard borders.

        Raises IndexError where the window leaves the stream.
        """
        self._check_window(start, length)
        index = int(np.searchsorted(self._ends, start, side="right"))
        parts: list[Tokens] = []
        while length > 0:
            tokens = self._shards[index]
            begin = start - (int(self._ends[index]) - len(tokens))
            parts.append(tokens[begin : begin + length])
            length -= len(parts[-1])
            start += len(parts[-1])
            index += 1
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint16)

    def windows(self, starts: npt.ArrayLike, length: int) -> npt.NDArray[np.int64]:
        """One window for each start, shape (start, length).

        Raises IndexError where a window leaves the stream.
        """
        offsets = np.asarray(starts, dtype=np.int64)
        rows = np.empty((len(offsets), length), dtype=np.int64)
        if not rows.size:
            return rows
        self._check_window(int(offsets.min()), length)
        self._check_window(int(offsets.max()), length)
        shards = np.searchsorted(self._ends, offsets, side="right")
        lefts = self._ends[shards] - offsets  # tokens of the shard from the start on
        for row, start, index, left in zip(
            rows, offsets.tolist(), shards.tolist(), lefts.tolist(), strict=True
        ):
            if left > length:
                row[:] = self._shards[index][-left : length - left]
            else:
                row[:] = self.window(start, length)
        return rows

    def pieces(self, start: int, length: int) -> tuple[Piece, ...]:
        """The documents that tokens start to start + length belong to, in order.

        Raises IndexError where the window leaves the stream.
        """
        self._check_window(start, length)
        first, last = np.searchsorted(self._ends, [start, start + length - 1], side="right")
        found: list[Piece] = []
        for index in range(first, last + 1 if length else first):
            begin = int(self._ends[index]) - len(self._shards[index])
            stop = min(start + length - begin, len(self._shards[index]))
            file = self._files[index]
            found += pieces_of(file.entry.file, file.starts(), max(start - begin, 0), stop)
        return tuple(found)

    def _check_window(self, start: int, length: int) -> None:
        if start < 0 or length < 0 or start + length > len(self):
            raise IndexError(f"Tokens {start} to {start + length} of a stream of {len(self)}.")


@dataclass(frozen=True)
class TokenisedCorpus:
    """Domains as token shards, from a manifest."""

    folder: Path
    domains: tuple[str, ...]
    vocabulary: int
    end_of_text_id: int
    fingerprint: str
    entries: Mapping[str, DomainEntry]

    @classmethod
    def open(cls, folder: Path | str) -> "TokenisedCorpus":
        """The corpus in a folder; reads the manifest only.

        Raises MissingFile without a manifest, TruncatedFile for one that can't be read.
        """
        path = Path(folder) / MANIFEST
        if not path.is_file():
            raise MissingFile(f"There is no tokenised corpus in {folder}; run tokenise() first.")
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            entries = [DomainEntry.from_dict(entry) for entry in value["domains"]]
            return cls(
                folder=Path(folder),
                domains=tuple(entry.name for entry in entries),
                vocabulary=value["vocabulary"],
                end_of_text_id=value["end_of_text_id"],
                fingerprint=value["fingerprint"],
                entries={entry.name: entry for entry in entries},
            )
        except (ValueError, KeyError, TypeError) as error:
            raise TruncatedFile(
                f"Manifest {path} can't be read ({type(error).__name__}: {error}); tokenise again."
            ) from error

    def entry(self, domain: str) -> DomainEntry:
        """A domain's counts and shards. Raises InvalidCorpus for a name that is not in it."""
        if domain not in self.entries:
            names = ", ".join(self.domains)
            raise InvalidCorpus(f"This corpus has no domain {domain!r}; it has {names}.")
        return self.entries[domain]

    def train_tokens(self, domain: str) -> int:
        """Training tokens of a domain, end-of-text tokens among them."""
        return sum(entry.tokens for entry in self.entry(domain).train)

    def validation_tokens(self, domain: str) -> int:
        """Validation tokens of a domain, end-of-text tokens among them."""
        return sum(entry.tokens for entry in self.entry(domain).validation)

    def shards(self, domain: str, split: str) -> list[Shard]:
        """The shards of a domain and split ("train" or "validation"), in order."""
        return [Shard(self.folder, entry) for entry in self.entry(domain).shards(split)]

    def stream(self, domain: str, split: str) -> TokenStream:
        """All tokens of a domain and split."""
        return TokenStream(self.shards(domain, split))

    def intact(self) -> bool:
        """Whether every shard has the hash that the manifest names; reads all of them."""
        return all(
            shard.intact()
            for domain in self.domains
            for split in SPLITS
            for shard in self.shards(domain, split)
        )

    def summary(self) -> dict[str, dict[str, int]]:
        """Per domain: tokens per split, documents, duplicates, ... ; ready for JSON."""
        return {
            name: {
                "train_tokens": self.train_tokens(name),
                "validation_tokens": self.validation_tokens(name),
                **entry.summary,
            }
            for name, entry in self.entries.items()
        }


def write_manifest(
    folder: Path,
    domains: Sequence[DomainEntry],
    *,
    vocabulary: int,
    end_of_text_id: int,
    fingerprint: str,
    settings: Mapping[str, Any] | None = None,
) -> TokenisedCorpus:
    """Name the finished shards; the last thing that tokenising does."""
    value = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "vocabulary": vocabulary,
        "end_of_text_id": end_of_text_id,
        "settings": dict(settings or {}),
        "domains": [asdict(domain) for domain in domains],
    }
    write_json(folder / MANIFEST, value)
    return TokenisedCorpus.open(folder)


def write_corpus(
    folder: Path,
    documents: Mapping[str, Mapping[str, Sequence[npt.ArrayLike]]],
    *,
    vocabulary: int,
    end_of_text_id: int,
    shard_documents: int = 1 << 30,
) -> TokenisedCorpus:
    """A corpus from token ids that are already in memory: domain, then split, then documents.

    The end-of-text token is added to every document. For synthetic corpora of
    known entropy, and for tokens that another program made.
    """
    entries = []
    for number, (name, splits) in enumerate(documents.items()):
        shards: dict[str, tuple[ShardEntry, ...]] = {}
        for split in SPLITS:
            pieces = list(splits.get(split, ()))
            shards[split] = tuple(
                _write_documents(
                    folder,
                    f"d{number:03d}/{split}-{index:05d}",
                    pieces[first : first + shard_documents],
                    token_dtype(vocabulary),
                    end_of_text_id,
                )
                for index, first in enumerate(range(0, len(pieces), shard_documents))
            )
        count = sum(entry.documents for split in SPLITS for entry in shards[split])
        entries.append(DomainEntry(name, {"documents": count}, **shards))
    return write_manifest(
        folder,
        entries,
        vocabulary=vocabulary,
        end_of_text_id=end_of_text_id,
        fingerprint="",
    )


def _write_documents(
    folder: Path,
    stem: str,
    documents: Sequence[npt.ArrayLike],
    dtype: type[np.uint16] | type[np.uint32],
    end_of_text_id: int,
) -> ShardEntry:
    arrays = [np.append(np.asarray(ids, dtype=dtype), dtype(end_of_text_id)) for ids in documents]
    lengths = [len(array) for array in arrays]
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return write_shard(folder, stem, np.concatenate(arrays), starts)
