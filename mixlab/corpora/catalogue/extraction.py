"""One domain's documents, from its cached packages into a JSONL file.

Exact duplicates are dropped within the domain, and near-duplicates where the
manifest asks for it: a document is one if more than the given share of its
8-word shingles stood in documents kept before. Shingles are sampled one in
four by CRC-32, so the choice is the same on every machine (Broder's
resemblance sketches, "On the resemblance and containment of documents", 1997,
with containment in all that went before instead of in one other document).

Limits: sampled shingles are held in memory, about 16 bytes per word of text.
"""

import fnmatch
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mixlab.corpora.catalogue.archives import Member, read_members
from mixlab.corpora.catalogue.extractors import EXTRACTORS
from mixlab.corpora.catalogue.manifest import DomainManifest, Part
from mixlab.corpora.catalogue.packages import CachedPackage, Progress
from mixlab.errors import FetchFailed

SHINGLE_WORDS = 8
SHINGLE_SAMPLING = 4


@dataclass
class Extracted:
    """Counts of one extraction, and the licence texts found on the way, per package."""

    documents: int = 0
    bytes: int = 0
    dropped: dict[str, int] = field(
        default_factory=lambda: {"short": 0, "duplicates": 0, "near_duplicates": 0}
    )
    licences: dict[str, dict[str, str]] = field(default_factory=dict)


def extract_domain(
    domain: DomainManifest,
    packages: Mapping[str, CachedPackage],
    target: Path,
    *,
    progress: Progress | None = None,
) -> Extracted:
    """Writes the domain's documents to `target`, one {"text": ...} a line.

    Raises FetchFailed if a part of the manifest selects nothing, which means
    that a package that is not pinned has changed its layout.
    """
    extracted = Extracted()
    keep = _Filter(domain, extracted)
    with target.open("w", encoding="utf-8", newline="\n") as stream:
        for done, part in enumerate(domain.parts):
            before = extracted.documents
            for text in _documents(part, packages[part.package], extracted):
                if (clean := keep(text)) is not None:
                    stream.write(json.dumps({"text": clean}, ensure_ascii=False) + "\n")
            if extracted.documents == before:
                raise FetchFailed(
                    f"{packages[part.package].file.name} gave no document for "
                    f"{domain.name!r} from {', '.join(part.members)}; its layout has changed."
                )
            if progress is not None:
                progress((done + 1) / len(domain.parts))
    return extracted


def _documents(part: Part, cached: CachedPackage, extracted: Extracted) -> Iterator[str]:
    licences = extracted.licences.setdefault(part.package, {})
    chosen = matcher(part.members, part.exclude)
    is_licence = matcher(cached.package.licence_members)

    def members() -> Iterator[Member]:
        for member in read_members(cached.file, lambda name: chosen(name) or is_licence(name)):
            if is_licence(member.name):
                licences[member.name] = member.data.decode("utf-8", "replace")
            else:
                yield member

    return EXTRACTORS[part.extractor](members(), part.options)


def matcher(patterns: tuple[str, ...], exclude: tuple[str, ...] = ()) -> Callable[[str], bool]:
    """Whether a member's name is selected; `*` crosses folders, as fnmatch has it."""

    def expression(globs: tuple[str, ...]) -> re.Pattern[str]:
        return re.compile("|".join(map(fnmatch.translate, globs)) or r"(?!)")

    wanted, unwanted = expression(patterns), expression(exclude)
    return lambda name: bool(wanted.match(name)) and not unwanted.match(name)


class _Filter:
    """Trims a document, and says None to a short one and to one that was there before."""

    def __init__(self, domain: DomainManifest, extracted: Extracted) -> None:
        self._domain, self._extracted = domain, extracted
        self._digests: set[bytes] = set()
        self._shingles: set[int] = set()

    def __call__(self, text: str) -> str | None:
        # Lone surrogates (from JSON escapes) have no UTF-8 form; NUL has no place in text.
        clean = text.encode("utf-8", "replace").decode("utf-8").replace("\0", "").strip()
        reason = self._reason_to_drop(clean)
        if reason is not None:
            self._extracted.dropped[reason] += 1
            return None
        self._extracted.documents += 1
        self._extracted.bytes += len(clean.encode())
        return clean

    def _reason_to_drop(self, text: str) -> str | None:
        if len(text) < self._domain.minimum_characters:
            return "short"
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if digest in self._digests:
            return "duplicates"
        self._digests.add(digest)
        share = self._domain.near_duplicate_share
        return None if share is None or self._is_new(text, share) else "near_duplicates"

    def _is_new(self, text: str, allowed_share: float) -> bool:
        sampled = set(_shingles(text))
        if len(sampled & self._shingles) > allowed_share * len(sampled):
            return False
        self._shingles |= sampled
        return True


def _shingles(text: str) -> Iterator[int]:
    words = re.findall(r"\w+", text.lower())
    for start in range(max(1, len(words) - SHINGLE_WORDS + 1)):
        value = zlib.crc32(" ".join(words[start : start + SHINGLE_WORDS]).encode())
        if value % SHINGLE_SAMPLING == 0:
            yield value
