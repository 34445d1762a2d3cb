"""Brings a named corpus here: packages in, JSONL with licence and provenance out.

    <folder>/packages/                    verified packages, shared by all corpora
    <folder>/<name>/<domain>.jsonl        {"text": ...} per line
    <folder>/<name>/<domain>.LICENCE.txt  licences, from inside the packages
    <folder>/<name>/<domain>.provenance.json   written last: with it, the domain is done

A domain that is done, and whose manifest did not change, is only checked by
hash; a second fetch therefore starts no client. Nothing here knows time or
chance, so the same packages give the same bytes.
"""

import contextlib
import functools
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixlab import __version__
from mixlab.corpora.catalogue.extraction import Extracted, extract_domain
from mixlab.corpora.catalogue.manifest import (
    DomainManifest,
    Manifest,
    load_manifest,
)
from mixlab.corpora.catalogue.packages import (
    CachedPackage,
    Progress,
    locked,
    obtain,
    sha256_of,
)
from mixlab.errors import ChecksumMismatch, FetchFailed, UnsafeArchive

# What of the time goes into downloads, roughly, so that the bar moves evenly.
DOWNLOAD_SHARE = 0.6


@dataclass(frozen=True)
class FetchedDomain:
    """What came out of one domain; `bytes` and `documents` are of the JSONL's texts."""

    name: str
    file: Path
    bytes: int
    documents: int
    licence: str
    evaluation_sets: tuple[str, ...]


@dataclass(frozen=True)
class FetchedCorpus:
    """A named corpus on this machine.

    `domains` leads to the JSONL files, `left_out` says why a domain is missing,
    `downloaded_bytes` counts this fetch alone: 0 where all was here already.
    """

    name: str
    folder: Path
    domains: Mapping[str, Path]
    left_out: Mapping[str, str]
    downloaded_bytes: int
    details: Mapping[str, FetchedDomain]


def fetch(name: str, folder: Path, *, progress: Progress | None = None) -> FetchedCorpus:
    """The named corpus in `<folder>/<name>`; goes on where an earlier fetch stopped.

    `progress` gets the fraction done, 0 to 1, never falling. Raises
    UnknownCatalogue, MissingClient, ChecksumMismatch, UnsafeArchive,
    TruncatedFile, and FetchFailed with the client's last words.
    """
    return fetch_manifest(load_manifest(name), folder, progress=progress)


def fetch_manifest(
    manifest: Manifest, folder: Path, *, progress: Progress | None = None
) -> FetchedCorpus:
    """`fetch` for a manifest of one's own."""
    home = folder / manifest.name
    home.mkdir(parents=True, exist_ok=True)
    meter = _Meter(manifest, progress)
    left_out: dict[str, str] = {}
    details: dict[str, FetchedDomain] = {}
    with locked(folder / "packages"):
        for domain in manifest.domains.values():
            try:
                details[domain.name] = _domain(manifest, domain, folder, meter)
            except (ChecksumMismatch, UnsafeArchive):
                raise
            except FetchFailed as error:
                if not domain.optional:
                    raise
                left_out[domain.name] = str(error)
            meter.finished(domain)
    files = {name: detail.file for name, detail in details.items()}
    return FetchedCorpus(manifest.name, home, files, left_out, meter.downloaded_bytes, details)


def fetched(name: str, folder: Path) -> FetchedCorpus | None:
    """What of a named corpus is here already, by its provenance files; None if nothing is.

    Looks only: nothing is downloaded and no hash is computed.
    """
    manifest = load_manifest(name)
    home = folder / name
    records = {domain: _record(home, domain) for domain in manifest.domains}
    details = {
        domain: _details(home, domain, record)
        for domain, record in records.items()
        if record is not None and record["fingerprint"] == manifest.fingerprint(domain)
    }
    if not details:
        return None
    missing = {domain: "not fetched" for domain in manifest.domains if domain not in details}
    files = {domain: detail.file for domain, detail in details.items()}
    return FetchedCorpus(name, home, files, missing, 0, details)


def _domain(
    manifest: Manifest, domain: DomainManifest, folder: Path, meter: "_Meter"
) -> FetchedDomain:
    home = folder / manifest.name
    record = _record(home, domain.name)
    file = home / f"{domain.name}.jsonl"
    if record is None or not _stands(record, file, manifest.fingerprint(domain.name)):
        packages = _obtain_all(manifest, domain, folder / "packages", meter)
        record = _extract(manifest, domain, home, packages, meter)
    return _details(home, domain.name, record)


def _stands(record: Mapping[str, Any], file: Path, fingerprint: str) -> bool:
    """Whether the domain was made from this very manifest and still is what was written."""
    if record["fingerprint"] != fingerprint or not file.is_file():
        return False
    return sha256_of(file) == str(record["jsonl_sha256"])


def _obtain_all(
    manifest: Manifest, domain: DomainManifest, cache: Path, meter: "_Meter"
) -> dict[str, CachedPackage]:
    cached = {}
    for package in manifest.packages_of(domain.name):
        cached[package.key] = obtain(
            package, cache, progress=functools.partial(meter.package, package.key)
        )
        meter.obtained(cached[package.key])
    return cached


def _extract(
    manifest: Manifest,
    domain: DomainManifest,
    home: Path,
    packages: Mapping[str, CachedPackage],
    meter: "_Meter",
) -> dict[str, Any]:
    """Writes the domain's three files, the provenance last; returns the provenance."""
    # A changed domain is not done until its new provenance stands.
    (home / f"{domain.name}.provenance.json").unlink(missing_ok=True)
    with _replacing(home / f"{domain.name}.jsonl") as temporary:
        extracted = extract_domain(
            domain, packages, temporary, progress=lambda part: meter.extracted(domain, part)
        )
        sha256 = sha256_of(temporary)
    with _replacing(home / f"{domain.name}.LICENCE.txt") as temporary:
        temporary.write_text(_licences(domain, packages, extracted), "utf-8")
    record = _provenance(manifest, domain, packages, extracted, sha256)
    with _replacing(home / f"{domain.name}.provenance.json") as temporary:
        temporary.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return record


def _provenance(
    manifest: Manifest,
    domain: DomainManifest,
    packages: Mapping[str, CachedPackage],
    extracted: Extracted,
    jsonl_sha256: str,
) -> dict[str, Any]:
    return {
        "corpus": manifest.name,
        "domain": domain.name,
        "summary": domain.summary,
        "licence": domain.licence,
        "provenance": domain.provenance,
        "evaluation_sets": list(domain.evaluation_sets),
        "documents": extracted.documents,
        "bytes": extracted.bytes,
        "dropped": extracted.dropped,
        "jsonl_sha256": jsonl_sha256,
        "fingerprint": manifest.fingerprint(domain.name),
        "mixlab": __version__,
        "packages": [
            {
                "client": cached.package.client,
                "name": cached.package.name,
                "version": cached.version,
                "file": cached.file.name,
                "sha256": cached.sha256,
                "pinned": cached.package.drifts is None,
                "licence": cached.package.licence,
            }
            for cached in packages.values()
        ],
    }


def _licences(
    domain: DomainManifest, packages: Mapping[str, CachedPackage], extracted: Extracted
) -> str:
    pieces = [f"Domain {domain.name}: {domain.licence}\n\n{domain.provenance}\n"]
    for key, cached in packages.items():
        pieces.append(f"{'=' * 78}\n{cached.package.requirement}: {cached.package.licence}\n")
        for name, text in extracted.licences.get(key, {}).items():
            pieces.append(f"{'-' * 78}\n{name}\n\n{text}\n")
    return "\n".join(pieces)


@contextlib.contextmanager
def _replacing(file: Path) -> Iterator[Path]:
    """A temporary file beside `file` that takes its place if the block ends well."""
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files for the owner only; corpora are read by workers too.
        temporary.chmod(0o644)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _record(home: Path, domain: str) -> dict[str, Any] | None:
    file = home / f"{domain}.provenance.json"
    if not file.is_file():
        return None
    record: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return record


def _details(home: Path, domain: str, record: Mapping[str, Any]) -> FetchedDomain:
    return FetchedDomain(
        domain,
        home / f"{domain}.jsonl",
        record["bytes"],
        record["documents"],
        record["licence"],
        tuple(record["evaluation_sets"]),
    )


class _Meter:
    """One fraction from downloads and extractions, weighted by package sizes; never falls."""

    def __init__(self, manifest: Manifest, progress: Progress | None) -> None:
        self._manifest, self._progress = manifest, progress
        self._fractions = dict.fromkeys(manifest.packages, 0.0)
        self._sizes = {key: package.bytes for key, package in manifest.packages.items()}
        self._extracted = dict.fromkeys(manifest.domains, 0.0)
        self._highest = 0.0
        self.downloaded_bytes = 0

    def package(self, key: str, fraction: float) -> None:
        self._fractions[key] = max(fraction, self._fractions[key])
        self._tell()

    def obtained(self, cached: CachedPackage) -> None:
        self.downloaded_bytes += cached.downloaded_bytes
        self.package(cached.package.key, 1.0)

    def extracted(self, domain: DomainManifest, fraction: float) -> None:
        self._extracted[domain.name] = fraction
        self._tell()

    def finished(self, domain: DomainManifest) -> None:
        for package in self._manifest.packages_of(domain.name):
            self._fractions[package.key] = 1.0
        self.extracted(domain, 1.0)

    def _tell(self) -> None:
        down = sum(self._sizes[key] * part for key, part in self._fractions.items())
        down /= max(1, sum(self._sizes.values()))
        out = sum(self._extracted.values()) / max(1, len(self._extracted))
        self._highest = max(self._highest, DOWNLOAD_SHARE * down + (1 - DOWNLOAD_SHARE) * out)
        if self._progress is not None:
            self._progress(min(1.0, self._highest))
