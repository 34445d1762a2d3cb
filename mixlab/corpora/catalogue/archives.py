"""Members of wheels, npm tarballs and Debian packages, read without unpacking to disk.

Nothing is written, so no name can escape a folder; names, links and kinds that
would escape when unpacked are refused all the same, because a package that
holds one is not what its name says. Sizes are counted on what really comes
out of the decompressor, never on what a header claims.

Limits: zip, tar with gzip, and .deb (ar with data.tar, plain or compressed by
gzip, xz, zstd, bzip2). Links are never followed.
"""

import bz2
import gzip
import io
import lzma
import posixpath
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import zstandard

from mixlab.errors import TruncatedFile, UnsafeArchive

Wanted = Callable[[str], bool]
DAMAGE: tuple[type[Exception], ...] = (
    *(zipfile.BadZipFile, tarfile.TarError, EOFError, lzma.LZMAError, zlib.error),
    *(gzip.BadGzipFile, zstandard.ZstdError),
)


@dataclass(frozen=True)
class UnpackLimits:
    """How much an archive may hold: one member, all that is decompressed, and in number."""

    member_bytes: int = 256 * 2**20
    total_bytes: int = 4 * 2**30
    members: int = 200_000


@dataclass(frozen=True)
class Member:
    """A regular file of an archive; `name` is relative, with forward slashes."""

    name: str
    data: bytes


def read_members(
    archive: Path, wanted: Wanted, *, limits: UnpackLimits | None = None
) -> Iterator[Member]:
    """The wanted regular files of a package, in the order of the archive.

    Raises UnsafeArchive for an escaping name or link, a device, or a size past
    the limits, and TruncatedFile for a damaged archive.
    """
    reader = READERS.get(archive.suffix)
    if reader is None:
        raise UnsafeArchive(
            f"{archive.name} is no archive that mixlab reads; it reads {', '.join(READERS)}."
        )
    try:
        yield from reader(archive, wanted, limits or UnpackLimits())
    except DAMAGE as error:
        raise TruncatedFile(
            f"{archive.name} is damaged ({error}); delete it and fetch again."
        ) from error


def gunzip(member: Member, *, limits: UnpackLimits | None = None) -> Member:
    """A `.gz` or `.dz` member unpacked, bounded like any other; other members as they are."""
    if not member.name.endswith((".gz", ".dz")):
        return member
    bound = (limits or UnpackLimits()).member_bytes
    with gzip.open(io.BytesIO(member.data)) as stream:
        try:
            data = _bounded(cast(IO[bytes], stream), bound, member.name)
        except DAMAGE as error:
            raise TruncatedFile(f"{member.name} is damaged ({error}); fetch it again.") from error
    return Member(member.name[:-3], data)


def _read_zip(archive: Path, wanted: Wanted, limits: UnpackLimits) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as opened:
        entries = opened.infolist()
        _check_count(len(entries), limits, archive.name)
        left = limits.total_bytes
        for entry in entries:
            name = safe_name(entry.filename)
            mode = stat.S_IFMT(entry.external_attr >> 16)
            if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise UnsafeArchive(f"{name} in {archive.name} is a link or a device.")
            if entry.is_dir() or not wanted(name):
                continue
            with opened.open(entry) as stream:
                data = _bounded(stream, min(limits.member_bytes, left), name)
            left -= len(data)
            yield Member(name, data)


def _read_npm(archive: Path, wanted: Wanted, limits: UnpackLimits) -> Iterator[Member]:
    with gzip.open(archive) as stream:
        yield from _read_tar(stream, wanted, limits, root_links=False)


def _read_deb(archive: Path, wanted: Wanted, limits: UnpackLimits) -> Iterator[Member]:
    for name, data in _ar_members(archive, limits):
        if name.startswith("data.tar"):
            with _decompressor(name, data) as stream:
                yield from _read_tar(stream, wanted, limits, root_links=True)
            return
    raise TruncatedFile(f"{archive.name} has no data.tar; delete it and fetch again.")


def _read_tar(
    stream: Any, wanted: Wanted, limits: UnpackLimits, *, root_links: bool
) -> Iterator[Member]:
    counted = _Counted(stream, limits.total_bytes)
    with tarfile.open(fileobj=cast(IO[bytes], counted), mode="r|") as opened:
        for count, entry in enumerate(opened, 1):
            _check_count(count, limits, entry.name)
            name = safe_name(entry.name)
            _check_kind(entry, name, root_links=root_links)
            if not entry.isreg() or not wanted(name):
                continue
            content = opened.extractfile(entry)
            assert content is not None  # a regular file always has content
            yield Member(name, _bounded(content, limits.member_bytes, name))


def safe_name(name: str) -> str:
    """The name made relative and plain; UnsafeArchive if it would leave its folder."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or ":" in parts[0]:
        raise UnsafeArchive(f"The archive's member {name!r} would leave its folder.")
    return posixpath.normpath(name)


def _check_kind(entry: tarfile.TarInfo, name: str, *, root_links: bool) -> None:
    """Files, folders, and links that stay inside; `root_links`: absolute means from the root."""
    if entry.isreg() or entry.isdir():
        return
    if not (entry.issym() or entry.islnk()):
        raise UnsafeArchive(f"The archive's member {name!r} is a device or a pipe.")
    target = entry.linkname
    if target.startswith("/"):
        inside = root_links
    elif entry.islnk():
        inside = not posixpath.normpath(target).startswith("..")
    else:
        joined = posixpath.join(posixpath.dirname(name), target)
        inside = not posixpath.normpath(joined).startswith("..")
    if not inside:
        raise UnsafeArchive(f"The archive's link {name!r} leads outside, to {target!r}.")


def _check_count(count: int, limits: UnpackLimits, name: str) -> None:
    if count > limits.members:
        raise UnsafeArchive(f"More than {limits.members} members (at {name}); raise the limit.")


def _bounded(stream: IO[bytes], bound: int, name: str) -> bytes:
    data = stream.read(bound + 1)
    if len(data) > bound:
        raise UnsafeArchive(f"{name} unpacks to more than {bound} bytes; raise the limit.")
    return data


def _ar_members(archive: Path, limits: UnpackLimits) -> Iterator[tuple[str, io.BytesIO]]:
    """Names and contents of an ar archive: 60-byte headers, contents padded to even."""
    with archive.open("rb") as stream:
        if stream.read(8) != b"!<arch>\n":
            raise TruncatedFile(f"{archive.name} is no Debian package; delete it and fetch again.")
        while header := stream.read(60):
            size = header[48:58].strip()
            if len(header) < 60 or not size.isdigit() or int(size) > limits.total_bytes:
                raise TruncatedFile(f"{archive.name} is damaged; delete it and fetch again.")
            data = stream.read(int(size) + int(size) % 2)
            yield header[:16].decode("ascii", "replace").strip().rstrip("/"), io.BytesIO(data)


def _decompressor(name: str, data: io.BytesIO) -> Any:
    if name.endswith(".xz"):
        return lzma.open(data)
    if name.endswith(".zst"):
        return zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(data)
    if name.endswith(".gz"):
        return gzip.open(data)
    return bz2.open(data) if name.endswith(".bz2") else data


class _Counted:
    """A reader that stops a bomb: what comes out is counted, whoever asks for it."""

    def __init__(self, stream: Any, bound: int) -> None:
        self._stream, self._bound, self._read = stream, bound, 0

    def read(self, size: int = -1) -> bytes:
        data = cast(bytes, self._stream.read(size))
        self._read += len(data)
        if self._read > self._bound:
            raise UnsafeArchive(f"Unpacks to more than {self._bound} bytes; raise the limit.")
        return data


READERS: dict[str, Callable[[Path, Wanted, UnpackLimits], Iterator[Member]]] = {
    ".whl": _read_zip,
    ".zip": _read_zip,
    ".tgz": _read_npm,
    ".deb": _read_deb,
}
