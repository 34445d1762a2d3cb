"""Which files a location stands for, and what each file is by its name.

A file stands for itself, whatever its name; one with an unknown extension is read as
plain text. A folder stands for the files below it, sorted by path, by these rules:

* only known extensions (FORMATS, any case), alone or followed by .gz or .zst;
* no hidden files or folders (a name that starts with a dot);
* `.json` only where the folder holds no plain text: beside text it is configuration
  (package.json), alone it is records (C4 and Dolma ship .json.gz);
* under a policy no symbolic links, without one links are followed once;
* no FIFOs, sockets or devices.

What is left out is counted by reason in the report. Limits: the list of a folder is
held in memory (about 200 bytes a file).
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mixlab.corpora.reading.limits import ReadReport
from mixlab.corpora.reading.paths import PathPolicy, kind_of, local_status, split_location
from mixlab.corpora.reading.remote import remote_files, remote_info
from mixlab.errors import MissingFile


class Format(StrEnum):
    """How documents lie in a file."""

    JSONL = "jsonl"  # one object a line
    JSON = "json"  # one value, or one object a line
    PARQUET = "parquet"
    TEXT = "text"  # the whole file is one document


class Compression(StrEnum):
    """How the file itself is packed."""

    NONE = ""
    GZIP = ".gz"
    ZSTD = ".zst"


_TEXT_EXTENSIONS = """
    txt text md markdown mdx rst adoc org tex bib html htm xhtml xml po srt vtt
    py pyi pyx c h cc cpp cxx hh hpp hxx cu m mm java kt kts scala groovy clj js jsx mjs cjs ts tsx
    vue svelte css scss less go rs rb php pl pm lua r jl hs ml mli fs fsx cs vb swift dart ex exs
    erl hrl lisp el scm rkt sh bash zsh fish ps1 bat sql proto thrift graphql cmake mk asm s f f90
    f95 v vhdl sv zig nim d pas tcl sol lean coq thy agda toml ini cfg conf yaml yml license
"""

FORMATS = {
    "jsonl": Format.JSONL,
    "ndjson": Format.JSONL,
    "json": Format.JSON,
    "parquet": Format.PARQUET,
    "pq": Format.PARQUET,
    **dict.fromkeys(_TEXT_EXTENSIONS.split(), Format.TEXT),
}


@dataclass(frozen=True)
class FoundFile:
    """A file to read: its path or URL, and the bytes that it takes in storage."""

    location: str
    stored_bytes: int


def format_of(location: str) -> tuple[Format | None, Compression]:
    """Format (None where the extension is unknown) and compression, by the name alone."""
    stem, extension = os.path.splitext(os.path.basename(location).lower())
    compression = {".gz": Compression.GZIP, ".zst": Compression.ZSTD}.get(extension)
    if compression is None:
        return FORMATS.get(extension[1:]), Compression.NONE
    inner = FORMATS.get(os.path.splitext(stem)[1][1:])
    return (None if inner is Format.PARQUET else inner), compression


def list_files(location: str, policy: PathPolicy | None = None) -> list[str]:
    """The files that a location stands for, sorted. Errors as in find_files."""
    return [file.location for file in find_files(location, policy)]


def find_files(
    location: str, policy: PathPolicy | None = None, *, report: ReadReport | None = None
) -> list[FoundFile]:
    """The files that a location stands for, with their sizes, sorted by path.

    Raises PathNotAllowed for what the policy forbids, and MissingFile if nothing is there or
    a folder holds no file that can be read.
    """
    where = os.path.expanduser(location) if policy is None else policy.check(location)
    scheme, path = split_location(where)
    if scheme is not None:
        is_folder, size = remote_info(path)
    else:
        found = local_status(path, policy)
        is_folder, size = stat.S_ISDIR(found.st_mode), found.st_size
    if not is_folder:
        return [FoundFile(path, size)]
    skipped: Counter[str] = Counter()
    below = _below_remote(path, skipped) if scheme else _below_local(path, policy, skipped)
    files = _without_configuration(list(below), skipped)
    if report is not None:
        report.skipped_files.update(skipped)
    if not files:
        raise MissingFile(_nothing_in(location, skipped))
    return sorted(files, key=lambda file: file.location)


def _nothing_in(location: str, skipped: Counter[str]) -> str:
    left_out = ", ".join(f"{count} x {reason}" for reason, count in skipped.most_common(5))
    return (
        f"The folder {location!r} holds no file to read (left out: {left_out or 'nothing'}); "
        "it needs .jsonl, .parquet, .txt or the like, alone or with .gz or .zst."
    )


def _without_configuration(files: list[FoundFile], skipped: Counter[str]) -> list[FoundFile]:
    formats = [format_of(file.location)[0] for file in files]
    if Format.TEXT not in formats:
        return files
    kept = [file for file, is_ in zip(files, formats, strict=True) if is_ is not Format.JSON]
    if len(kept) < len(files):
        skipped["json beside plain text"] += len(files) - len(kept)
    return kept


def _below_remote(url: str, skipped: Counter[str]) -> Iterator[FoundFile]:
    for name, location, size in remote_files(url):
        if any(part.startswith(".") for part in name.split("/")):
            skipped["hidden"] += 1
        elif format_of(name)[0] is None:
            skipped["unknown extension"] += 1
        else:
            yield FoundFile(location, size)


def _below_local(top: str, policy: PathPolicy | None, skipped: Counter[str]) -> Iterator[FoundFile]:
    """Files below a folder. `above` holds the folders on the way, since links can form a ring."""
    start = local_status(top, policy)
    waiting = [(top, frozenset({(start.st_dev, start.st_ino)}))]
    while waiting:
        folder, above = waiting.pop()
        for name, found in _entries(folder, policy):
            location = os.path.join(folder, name)
            reason = _reason_to_skip(name, found, above)
            if reason is not None:
                skipped[reason] += 1
            elif policy is not None and policy.is_apart(Path(location)):
                skipped["the service's home folder"] += 1
            elif found is not None and stat.S_ISDIR(found.st_mode):
                waiting.append((location, above | {(found.st_dev, found.st_ino)}))
            elif found is not None:
                yield FoundFile(location, found.st_size)


def _reason_to_skip(
    name: str, found: os.stat_result | None, above: frozenset[tuple[int, int]]
) -> str | None:
    if name.startswith("."):
        return "hidden"
    if found is None:
        return "broken symbolic link"
    if stat.S_ISDIR(found.st_mode):
        return "link to a folder above" if (found.st_dev, found.st_ino) in above else None
    if not stat.S_ISREG(found.st_mode):
        return kind_of(found.st_mode)
    return "unknown extension" if format_of(name)[0] is None else None


def _entries(folder: str, policy: PathPolicy | None) -> Iterator[tuple[str, os.stat_result | None]]:
    """Names in a folder and what they are; links are followed only without a policy."""
    with _scandir(folder, policy) as entries:
        for entry in entries:
            try:
                yield entry.name, entry.stat(follow_symlinks=policy is None)
            except OSError:  # a link to nothing, or in a ring
                yield entry.name, None


@contextmanager
def _scandir(folder: str, policy: PathPolicy | None) -> Iterator[Iterator[os.DirEntry[str]]]:
    if policy is None:
        try:
            with os.scandir(folder) as entries:
                yield entries
        except OSError as error:
            raise MissingFile(
                f"The folder {folder!r} can't be listed: {error.strerror}."
            ) from error
        return
    descriptor = policy.open_folder(folder)
    try:
        with closing(os.scandir(descriptor)) as entries:
            yield entries
    finally:
        os.close(descriptor)
