"""Bytes of a file in bounded pieces: unpacked, counted, and held against limits.

gzip goes through the standard library, which bounds each read and checks every
member's CRC. zstd is fed 1 KiB at a time, because python-zstandard's decompressobj
can't bound its output: 1 KiB unpacks to at most 32 MiB (256 blocks of 128 KiB, RFC
8878 section 3.1.1.2), and its stream_reader hides a truncated frame. Frames and
members may follow each other, as parallel compressors write them.
"""

import gzip
import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from typing import BinaryIO, cast

import zstandard

from mixlab.corpora.reading.limits import MEBIBYTE, Meter
from mixlab.corpora.reading.listing import Compression
from mixlab.errors import LimitExceeded, TruncatedFile

PIECE_BYTES = MEBIBYTE
# What `zstd --long=27` may need to be unpacked, and zstd's own default limit.
ZSTD_WINDOW_BYTES = 128 * MEBIBYTE
_ZSTD_FEED_BYTES = 1024


def pieces(stored: BinaryIO, compression: Compression, meter: Meter) -> Iterator[bytes]:
    """The unpacked bytes of an open file in pieces of at most 1 MiB.

    Raises TruncatedFile if it is damaged or ends too early, LimitExceeded past a limit.
    """
    if compression is Compression.GZIP:
        unpacked = _gunzip(stored, meter)
    elif compression is Compression.ZSTD:
        unpacked = _unzstd(stored, meter)
    else:
        unpacked = _stored_pieces(stored, meter)
    for piece in unpacked:
        meter.take_unpacked(len(piece))
        yield piece


def _stored_pieces(stored: BinaryIO, meter: Meter) -> Iterator[bytes]:
    while piece := stored.read(PIECE_BYTES):
        meter.take_stored(len(piece))
        yield piece


class _Counted(BufferedIOBase):
    """An open file that tells the meter what is read from it; all that GzipFile needs."""

    def __init__(self, stored: BinaryIO, meter: Meter) -> None:
        self._stored = stored
        self._meter = meter

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        piece = self._stored.read(PIECE_BYTES if size is None or size < 0 else size)
        self._meter.take_stored(len(piece))
        return piece


def _gunzip(stored: BinaryIO, meter: Meter) -> Iterator[bytes]:
    try:
        with gzip.GzipFile(fileobj=cast(BinaryIO, _Counted(stored, meter)), mode="rb") as unpacked:
            # read1, because read collects a whole piece, and loses it at a cut.
            while piece := unpacked.read1(PIECE_BYTES):
                yield piece
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _damaged(meter, "gzip", error) from error
    if not meter.stored:
        raise _damaged(meter, "gzip", EOFError("the file is empty"))


def _unzstd(stored: BinaryIO, meter: Meter) -> Iterator[bytes]:
    """Frame after frame; a frame is closed when its decompressor says so, not when bytes end."""
    factory = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES)
    frame = factory.decompressobj()
    try:
        for piece in _stored_pieces(stored, meter):
            for start in range(0, len(piece), _ZSTD_FEED_BYTES):
                rest = piece[start : start + _ZSTD_FEED_BYTES]
                while rest:
                    if frame.eof:
                        frame = factory.decompressobj()
                    unpacked = frame.decompress(rest)
                    rest = frame.unused_data if frame.eof else b""
                    yield from _cut(unpacked)
    except zstandard.ZstdError as error:
        if "too much memory" in str(error):
            raise LimitExceeded(
                f"{meter.file!r} needs a zstd window above {ZSTD_WINDOW_BYTES} bytes; "
                "compress it again without --ultra --long."
            ) from error
        raise _damaged(meter, "zstd", error) from error
    if not frame.eof:
        raise _damaged(meter, "zstd", EOFError("the last frame has no end"))


def _cut(unpacked: bytes) -> Iterator[bytes]:
    for start in range(0, len(unpacked), PIECE_BYTES):
        yield unpacked[start : start + PIECE_BYTES]


def _damaged(meter: Meter, name: str, error: Exception) -> TruncatedFile:
    return TruncatedFile(
        f"{meter.file!r} is no whole {name} file: {error} (at byte {meter.stored} stored, "
        f"{meter.unpacked} unpacked); bring the file here again."
    )
