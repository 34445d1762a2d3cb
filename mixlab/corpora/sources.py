"""What a domain is made of: where its text lies, how it is known again, and a sample of it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from mixlab.corpora.reading.limits import ReadLimits, ReadReport
from mixlab.corpora.reading.listing import FoundFile, find_files
from mixlab.corpora.reading.paths import PathPolicy, local_status, split_location
from mixlab.corpora.reading.readers import read_files
from mixlab.corpora.reading.remote import remote_file_system

# What file systems call a file's version; each sets some of these.
VERSION_KEYS = ("mtime", "ETag", "etag", "LastModified", "last_modified", "updated", "generation")
# One file gives at most this share of a sample, where there are enough files.
SAMPLED_FILES = 16


@dataclass(frozen=True)
class DomainSource:
    """A domain's name, the files or folders of its text, and the field of their records."""

    name: str
    locations: tuple[str, ...]
    text_field: str = "text"


def digest_of_value(value: Any) -> str:
    """A sha256 of what can be written as JSON."""
    return sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def fingerprint_of(source: DomainSource, policy: PathPolicy | None) -> str:
    """A hash over the source and its files' paths, sizes and modification times.

    Raises MissingFile or PathNotAllowed.
    """
    files = [
        (file.location, file.stored_bytes, _version(file.location, policy))
        for file in _files(source, policy)
    ]
    return digest_of_value([asdict(source), files])


def sample_documents(
    source: DomainSource,
    sample_bytes: int,
    *,
    limits: ReadLimits,
    policy: PathPolicy | None,
    seed: int,
    on_bytes: Callable[[int], object] | None = None,
) -> Iterator[str]:
    """Texts of about `sample_bytes` characters in all, from files in a seeded order.

    Each file gives its first documents, and no file of many gives more than a 16th of the
    sample, so that it isn't one file's language. `on_bytes` hears of characters taken.
    """
    files = _files(source, policy)
    order = np.random.default_rng(seed).permutation(len(files)).tolist()
    quota = max(1, sample_bytes // min(len(files), SAMPLED_FILES))
    left = sample_bytes
    for number in order:
        left_here = min(quota, left)
        documents = read_files(
            [files[number]],
            text_field=source.text_field,
            limits=limits,
            report=ReadReport(),
            policy=policy,
        )
        for text in documents:
            taken = text[:left_here]
            yield taken
            left_here -= len(taken)
            left -= len(taken)
            if on_bytes is not None:
                on_bytes(len(taken))
            if left_here <= 0:
                break
        if left <= 0:
            return


def _files(source: DomainSource, policy: PathPolicy | None) -> list[FoundFile]:
    return [file for location in source.locations for file in find_files(location, policy)]


def _version(location: str, policy: PathPolicy | None) -> list[Any]:
    scheme, path = split_location(location)
    if scheme is None:
        return [local_status(path, policy).st_mtime_ns]
    file_system, inner = remote_file_system(location)
    info = file_system.info(inner)
    return [str(info[key]) for key in VERSION_KEYS if key in info]
