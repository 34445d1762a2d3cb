"""From domains of text to token shards: read, drop duplicates, split, encode, write.

A domain is written in parts (parts.py). A run that was killed starts again behind the last
whole part: what lies before it is read and hashed again, which is cheap, but not encoded
again. A finished domain is not even read. The manifest comes last.

What was made is known by a fingerprint over the domain's files (path, size, modification
time or ETag), text field, limits, settings, the tokenizer, and the domains before it, whose
documents are not repeated. Where it differs, the domain is made anew.

Memory: one shard of tokens, 2 MiB of texts and what encoding them takes, up to 32 MiB of a
domain's first documents, and the hashes of documents (splitting.py). None of it but the
hashes, 16 bytes a document, grows with the domain. The same input gives the same bytes.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from mixlab.corpora.files import file_sha256, write_atomically, write_json
from mixlab.corpora.parts import DOMAIN_FILE, entry_of, write_parts
from mixlab.corpora.reading.limits import ReadLimits, ReadReport
from mixlab.corpora.reading.paths import PathPolicy
from mixlab.corpora.reading.readers import read_documents, stored_bytes
from mixlab.corpora.shards import MANIFEST, DomainEntry, TokenisedCorpus, write_manifest
from mixlab.corpora.sources import (
    DomainSource,
    digest_of_value,
    fingerprint_of,
    sample_documents,
)
from mixlab.corpora.splitting import Digests, SeenDigests, Tally, split_documents
from mixlab.corpora.tokenizer import (
    end_of_text_id,
    load_tokenizer,
    train_tokenizer,
    vocabulary_of,
)
from mixlab.errors import EmptyDomain, InvalidCorpus, UnreadableData

__all__ = ["DomainSource", "tokenise"]

Progress = Callable[[float], None]

# Part of every fingerprint; raise it when the same input would give other tokens.
PIPELINE = 2
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_SHARE = 0.15  # of the progress, where one is trained
PROGRESS_STEP = 0.002
_DEFAULT_LIMITS = ReadLimits()


@dataclass(frozen=True)
class _Settings:
    """Everything but the text that decides what comes out."""

    vocabulary: int
    tokenizer_sha256: str | None  # of a given tokenizer
    validation_fraction: float
    sample_bytes: int
    shard_tokens: int
    limits: ReadLimits
    seed: int

    def __post_init__(self) -> None:
        if not 0 < self.validation_fraction <= 0.5:
            raise InvalidCorpus(
                f"The validation fraction is {self.validation_fraction}; it must be more than 0 "
                "and at most 0.5."
            )
        for name in ("sample_bytes", "shard_tokens"):
            if getattr(self, name) < 1:
                raise InvalidCorpus(f"{name} is {getattr(self, name)}; it must be at least 1.")


def tokenise(
    domains: Sequence[DomainSource],
    folder: Path,
    *,
    vocabulary: int = 2048,
    tokenizer_file: Path | None = None,
    validation_fraction: float = 0.05,
    sample_bytes: int = 4_000_000,
    shard_tokens: int = 8_000_000,
    limits: ReadLimits = _DEFAULT_LIMITS,
    policy: PathPolicy | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> TokenisedCorpus:
    """Tokens of every domain under `folder`; what is there already and still valid is kept.

    Without `tokenizer_file` a tokenizer of `vocabulary` tokens is trained on up to
    `sample_bytes` characters of each domain. `progress` hears fractions from 0 to 1.

    Raises InvalidCorpus, EmptyDomain, DomainTooSmall, and what reading raises.
    """
    _check(domains)
    settings = _Settings(
        vocabulary=vocabulary,
        tokenizer_sha256=None if tokenizer_file is None else _sha256_of_given(tokenizer_file),
        validation_fraction=validation_fraction,
        sample_bytes=sample_bytes,
        shard_tokens=shard_tokens,
        limits=limits,
        seed=seed,
    )
    fingerprints = [fingerprint_of(source, policy) for source in domains]
    whole = digest_of_value([PIPELINE, asdict(settings), fingerprints])
    report = _throttled(progress)
    finished = _finished(folder, whole)
    if finished is None:
        folder.mkdir(parents=True, exist_ok=True)
        # A reader must not find the old manifest over new shards.
        (folder / MANIFEST).unlink(missing_ok=True)
        work = _Work(folder, settings, policy, report)
        finished = work.run(domains, fingerprints, tokenizer_file, whole)
    report(1.0)
    return finished


class _Work:
    """One call of `tokenise` that has something left to do."""

    def __init__(
        self, folder: Path, settings: _Settings, policy: PathPolicy | None, progress: Progress
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.policy = policy
        self.progress = progress

    def run(
        self,
        domains: Sequence[DomainSource],
        fingerprints: Sequence[str],
        tokenizer_file: Path | None,
        whole: str,
    ) -> TokenisedCorpus:
        """Tokenizer, then domain by domain, then the manifest."""
        tokenizer = self._tokenizer(domains, tokenizer_file, whole)
        begun = 0.0 if tokenizer_file else TOKENIZER_SHARE
        sizes = [sum(stored_bytes(p, self.policy) for p in s.locations) for s in domains]
        entries: list[DomainEntry] = []
        earlier: list[Digests] = []
        known = file_sha256(self.folder / TOKENIZER_FILE)
        for number, source in enumerate(domains):
            known = digest_of_value([known, asdict(self.settings), fingerprints[number]])
            name = f"d{number:03d}"
            entry = self._finished_domain(name, known)
            if entry is None:
                tell = partial(self._tell, begun, sum(sizes[:number]), sum(sizes))
                entry = self._make_domain(source, name, known, tokenizer, earlier, tell)
            entries.append(entry)
            earlier.append(np.load(self.folder / name / "digests.npy", mmap_mode="r"))
        self._remove_others(len(domains))
        return write_manifest(
            self.folder,
            entries,
            vocabulary=vocabulary_of(tokenizer),
            end_of_text_id=end_of_text_id(tokenizer),
            fingerprint=whole,
            settings=asdict(self.settings),
        )

    def _tokenizer(
        self, domains: Sequence[DomainSource], given: Path | None, whole: str
    ) -> Tokenizer:
        path, note = self.folder / TOKENIZER_FILE, self.folder / "tokenizer.source.json"
        if _noted(note) == whole and path.is_file():
            return load_tokenizer(path)
        note.unlink(missing_ok=True)
        if given is not None:
            load_tokenizer(given)
            write_atomically(path, lambda temporary: shutil.copyfile(given, temporary))
        else:
            tokenizer = self._train(domains)
            write_atomically(path, lambda temporary: tokenizer.save(str(temporary)))
        write_json(note, {"fingerprint": whole})
        return load_tokenizer(path)

    def _train(self, domains: Sequence[DomainSource]) -> Tokenizer:
        taken = 0

        def on_bytes(count: int) -> None:
            nonlocal taken
            taken += count
            wanted = self.settings.sample_bytes * len(domains)
            self.progress(TOKENIZER_SHARE * min(1.0, taken / wanted) * 0.5)

        samples = {}
        for source in domains:
            texts = sample_documents(
                source,
                self.settings.sample_bytes,
                limits=self.settings.limits,
                policy=self.policy,
                seed=self.settings.seed,
                on_bytes=on_bytes,
            )
            first = next(texts, None)
            if first is None:
                raise EmptyDomain(_no_document(source))
            samples[source.name] = chain([first], texts)
        return train_tokenizer(samples, vocabulary=self.settings.vocabulary)

    def _tell(self, begun: float, before: int, total: int, here: int) -> None:
        # What was read is not encoded yet; 1 is told at the very end.
        read = min(0.99, (before + here) / max(total, 1))
        self.progress(begun + (1 - begun) * read)

    def _finished_domain(self, name: str, known: str) -> DomainEntry | None:
        """The domain as an earlier run finished it, if its files are whole."""
        path = self.folder / name / DOMAIN_FILE
        if _noted(path) != known:
            return None
        value = json.loads(path.read_text(encoding="utf-8"))
        entry = DomainEntry.from_dict(value["entry"])
        corpus = TokenisedCorpus(self.folder, (entry.name,), 0, 0, known, {entry.name: entry})
        digests = self.folder / name / "digests.npy"
        whole = digests.is_file() and file_sha256(digests) == value["digests_sha256"]
        return entry if whole and corpus.intact() else None

    def _make_domain(
        self,
        source: DomainSource,
        name: str,
        known: str,
        tokenizer: Tokenizer,
        earlier: Sequence[Digests],
        tell: Callable[[int], None],
    ) -> DomainEntry:
        folder = self.folder / name
        if _noted(folder / "source.json") != known:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            write_json(folder / "source.json", {"fingerprint": known})
        counts, tally, seen = ReadReport(), Tally(), SeenDigests(earlier)
        documents = split_documents(
            self._texts(source, counts, tell),
            domain=source.name,
            seen=seen,
            tally=tally,
            validation_fraction=self.settings.validation_fraction,
            seed=self.settings.seed,
        )
        parts = write_parts(
            documents,
            self.folder,
            name,
            tokenizer=tokenizer,
            shard_tokens=self.settings.shard_tokens,
        )
        if not parts:
            raise EmptyDomain(_no_document(source, tally.duplicates))
        entry = entry_of(source.name, parts, _summary(counts, tally))
        digests = folder / "digests.npy"
        write_atomically(digests, lambda temporary: np.save(temporary, seen.own()))
        done = {
            "fingerprint": known,
            "digests_sha256": file_sha256(digests),
            "entry": asdict(entry),
        }
        write_json(folder / DOMAIN_FILE, done)
        return entry

    def _texts(
        self, source: DomainSource, counts: ReadReport, tell: Callable[[int], None]
    ) -> Iterator[str]:
        for location in source.locations:
            texts = read_documents(
                location,
                text_field=source.text_field,
                limits=self.settings.limits,
                report=counts,
                policy=self.policy,
            )
            for text in texts:
                tell(counts.stored_bytes)
                yield text

    def _remove_others(self, domains: int) -> None:
        """Folders of domains that the corpus no longer has."""
        for path in self.folder.glob("d[0-9][0-9][0-9]*"):
            if int(path.name[1:]) >= domains:
                shutil.rmtree(path)


def _throttled(progress: Progress | None) -> Progress:
    """Calls on only when a fraction has grown by PROGRESS_STEP or reached 1."""
    told = 0.0

    def tell(fraction: float) -> None:
        nonlocal told
        if progress is not None and (fraction >= told + PROGRESS_STEP or fraction >= 1 > told):
            told = fraction
            progress(fraction)

    return tell


def _check(domains: Sequence[DomainSource]) -> None:
    if not domains:
        raise InvalidCorpus("A corpus needs at least one domain; none was given.")
    names = [source.name for source in domains]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidCorpus(f"Domain names must differ; given twice: {', '.join(twice)}.")
    for source in domains:
        if not source.name.strip():
            raise InvalidCorpus("A domain's name is empty; name every domain.")
        if not source.locations:
            raise InvalidCorpus(f"Domain {source.name!r} names no file or folder; give one.")


def _sha256_of_given(path: Path) -> str:
    load_tokenizer(path)
    return file_sha256(path)


def _finished(folder: Path, fingerprint: str) -> TokenisedCorpus | None:
    """The corpus of an earlier run, if it was made from the same and is whole."""
    if _noted(folder / MANIFEST) != fingerprint:
        return None
    try:
        corpus = TokenisedCorpus.open(folder)
        return corpus if corpus.intact() else None
    except UnreadableData:
        return None


def _noted(path: Path) -> str | None:
    """The fingerprint in a JSON file, None where the file is missing or damaged."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _summary(counts: ReadReport, tally: Tally) -> dict[str, int]:
    return {
        "documents": tally.kept,
        "duplicates": tally.duplicates,
        "empty_documents": counts.empty_documents,
        "replaced_characters": counts.replaced_characters,
        "bytes": counts.bytes,
    }


def _no_document(source: DomainSource, duplicates: int = 0) -> str:
    where = ", ".join(source.locations)
    if duplicates:
        return (
            f"Domain {source.name!r} has no document of its own: all {duplicates} in {where} are "
            "duplicates of earlier domains' documents; give other files, or leave it out."
        )
    return f"Domain {source.name!r} has no document in {where}; give files that hold text."
