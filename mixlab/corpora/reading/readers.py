"""Documents out of files and folders: JSONL, JSON, Parquet and plain text, .gz and .zst.

`read_documents` streams: memory stays flat however large the domain is (one document
and a few MiB of buffers). Local paths and every fsspec URL work alike. Which files a
folder stands for is said in `listing.py`, which paths are allowed in `paths.py`, what
a file may cost in `limits.py`.

Texts come out as they are stored, line ends included; only a byte order mark at a
file's start is dropped, and what UTF-8 can't hold becomes U+FFFD and is counted.
Documents that are empty, only white space, or null are left out and counted. Nothing
is ever unpickled. A plain text file is one document.
"""

from collections.abc import Iterable, Iterator
from typing import BinaryIO

from mixlab.corpora.reading.decoding import BYTE_ORDER_MARK, decode_keeping_bytes, repaired
from mixlab.corpora.reading.jsonl import json_texts, jsonl_texts
from mixlab.corpora.reading.limits import Meter, ReadLimits, ReadReport
from mixlab.corpora.reading.listing import (
    Compression,
    Format,
    FoundFile,
    find_files,
    format_of,
    list_files,
)
from mixlab.corpora.reading.parquet import parquet_texts
from mixlab.corpora.reading.paths import PathPolicy, open_local, split_location
from mixlab.corpora.reading.remote import open_remote
from mixlab.corpora.reading.streams import pieces
from mixlab.errors import MissingTextField

__all__ = [
    "PathPolicy",
    "ReadLimits",
    "ReadReport",
    "list_files",
    "read_documents",
    "read_files",
    "stored_bytes",
]

_DEFAULT_LIMITS = ReadLimits()
# Where git looks for a NUL to tell binary files from text.
_BINARY_PROBE_BYTES = 8000


def read_documents(
    location: str,
    *,
    text_field: str = "text",
    limits: ReadLimits = _DEFAULT_LIMITS,
    report: ReadReport | None = None,
    policy: PathPolicy | None = None,
) -> Iterator[str]:
    """Stream the documents of a file or folder, local or any fsspec URL, in a fixed order.

    text_field: where records hold their text, with dots for nested ones ("meta.text").
    report: counts as the documents flow. policy: None reads all that the user may read.

    Raises at once PathNotAllowed or MissingFile; while streaming also TruncatedFile,
    MissingTextField and LimitExceeded, each naming the file and the place in it.
    """
    report = ReadReport() if report is None else report
    files = find_files(location, policy, report=report)
    return read_files(files, text_field=text_field, limits=limits, report=report, policy=policy)


def stored_bytes(location: str, policy: PathPolicy | None = None) -> int:
    """Bytes that a location takes in storage; ReadReport.stored_bytes gets there as it is read."""
    return sum(file.stored_bytes for file in find_files(location, policy))


def read_files(
    files: Iterable[FoundFile],
    *,
    text_field: str,
    limits: ReadLimits,
    report: ReadReport,
    policy: PathPolicy | None,
) -> Iterator[str]:
    """The documents of files that `find_files` has found; as read_documents.

    Names of files within a folder may hold what a location that a user writes may not.
    """
    for file in files:
        meter = Meter(file.location, limits, report)
        with _opened(file.location, policy) as stored:
            report.files += 1
            for text in _texts(stored, text_field, meter):
                document = _counted(text, report)
                if document is not None:
                    yield document


def _opened(location: str, policy: PathPolicy | None) -> BinaryIO:
    if policy is not None and policy.on_open is not None:
        policy.on_open(location)
    scheme, path = split_location(location)
    return open_local(path, policy) if scheme is None else open_remote(path)


def _texts(stored: BinaryIO, text_field: str, meter: Meter) -> Iterator[str | None]:
    format_, compression = format_of(meter.file)
    if format_ is Format.PARQUET:
        return parquet_texts(stored, text_field, meter)
    unpacked = pieces(stored, compression, meter)
    if format_ is Format.JSONL:
        return jsonl_texts(unpacked, text_field, meter)
    if format_ is Format.JSON:
        return json_texts(unpacked, text_field, meter)
    return _whole_text(unpacked, format_, compression, meter)


def _whole_text(
    unpacked: Iterator[bytes], format_: Format | None, compression: Compression, meter: Meter
) -> Iterator[str]:
    """One document; a file of unknown kind must look like text."""
    parts: list[bytes] = []
    for piece in unpacked:
        parts.append(piece)
        meter.check_document(meter.unpacked, "the whole file as one document")
    raw = b"".join(parts)
    if format_ is None and b"\0" in raw[:_BINARY_PROBE_BYTES]:
        raise MissingTextField(
            f"{meter.file!r} holds binary data, not text (a NUL at byte {raw.index(0)}"
            f"{' unpacked' if compression else ''}); give JSONL, Parquet or plain text."
        )
    yield decode_keeping_bytes(raw.removeprefix(BYTE_ORDER_MARK))


def _counted(text: str | None, report: ReadReport) -> str | None:
    """The document to hand out, or None for an empty one, counted either way."""
    if not text or text.isspace():
        report.empty_documents += 1
        return None
    document, replaced, size = repaired(text)
    report.documents += 1
    report.bytes += size
    report.replaced_characters += replaced
    return document
