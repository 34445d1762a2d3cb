"""How much a file may unpack to, and what was counted while reading.

A bomb is a small file that unpacks to a huge one: gzip reaches 1,000:1, zstd
30,000:1, Parquet more. Files are streamed, so a bomb can't fill the memory; the
limits bound the time and disk that it costs. Text compresses 3:1 to 10:1,
repetitive logs 50:1; the default ratio of 100 leaves room for both.
"""

from collections import Counter
from dataclasses import dataclass, field

from mixlab.errors import InvalidInput, LimitExceeded

MEBIBYTE = 1 << 20

# Below this many unpacked bytes the ratio says nothing: a page of blanks compresses 500:1.
RATIO_FREE_BYTES = 16 * MEBIBYTE


@dataclass(frozen=True)
class ReadLimits:
    """Bounds on one file.

    max_file_bytes: bytes that a file may hold after unpacking.
    max_ratio: unpacked bytes per stored byte, judged after the first 16 MiB unpacked.
    max_document_bytes: bytes of one document as it is stored; for JSONL the whole line, so
        this also bounds the memory that a line without an end takes.

    Raises InvalidInput for a limit that is not positive.
    """

    max_file_bytes: int = 64 * 1024 * MEBIBYTE
    max_ratio: float = 100.0
    max_document_bytes: int = 32 * MEBIBYTE

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise InvalidInput(f"{name} must be more than 0, not {value}.")


@dataclass
class ReadReport:
    """What was read so far; hand one in, and look while or after the documents flow."""

    files: int = 0  # opened
    documents: int = 0  # handed out
    bytes: int = 0  # UTF-8 bytes of the documents handed out
    replaced_characters: int = 0  # U+FFFD put in for invalid UTF-8 or unpaired surrogates
    empty_documents: int = 0  # empty, only white space, or null; not handed out
    stored_bytes: int = 0  # taken from storage, before unpacking; for progress
    skipped_files: Counter[str] = field(default_factory=Counter)  # in folders, by reason


@dataclass
class Meter:
    """Bytes in and out of one file, held against its limits."""

    file: str
    limits: ReadLimits
    report: ReadReport
    stored: int = 0
    unpacked: int = 0

    def take_stored(self, count: int) -> None:
        """Count bytes that came from storage."""
        self.stored += count
        self.report.stored_bytes += count

    def take_unpacked(self, count: int) -> None:
        """Count bytes after unpacking. Raises LimitExceeded past a limit."""
        self.unpacked += count
        self.check(self.unpacked, self.stored)

    def check(self, unpacked: int, stored: int) -> None:
        """Raise LimitExceeded if `stored` bytes may not become `unpacked` ones."""
        if unpacked > self.limits.max_file_bytes:
            raise LimitExceeded(
                f"{self.file!r} unpacks to more than {self.limits.max_file_bytes} bytes "
                "(max_file_bytes); split it, or raise the limit if you trust it "
                "(MIXLAB_MAX_FILE_BYTES for the service)."
            )
        if unpacked > RATIO_FREE_BYTES and unpacked > self.limits.max_ratio * stored:
            raise LimitExceeded(
                f"{self.file!r} unpacks to {unpacked} bytes from {stored} stored ones, above the "
                f"allowed ratio of {self.limits.max_ratio:g} (max_ratio); raise the limit if you "
                "trust it (MIXLAB_MAX_RATIO for the service)."
            )

    def check_document(self, size: int, where: str) -> None:
        """Raise LimitExceeded if one document of `size` bytes is too long."""
        if size > self.limits.max_document_bytes:
            raise LimitExceeded(
                f"{self.file!r}, {where}: longer than {self.limits.max_document_bytes} bytes "
                "(max_document_bytes); split the document, or raise the limit "
                "(MIXLAB_MAX_DOCUMENT_BYTES for the service)."
            )
