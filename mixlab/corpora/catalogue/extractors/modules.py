"""Documents from SWORD modules (zText, zCom) and from R's lazy-load databases.

SWORD: `*.?zs` is an index of (offset, size, unpacked size), three little-endian
32-bit numbers per block of `*.?zz`, each block a zlib stream of OSIS markup
(crosswire.org, `zverse.cpp`). R: `Rdata.rdb` is a row of objects, each a
big-endian 32-bit length and a zlib stream of XDR serialisation (R Internals,
"Serialization Formats"); a novel is a vector of its lines.

Limits: blocks compressed by zlib; of R, character vectors only.
"""

import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mixlab.corpora.catalogue.archives import Member, UnpackLimits
from mixlab.errors import TruncatedFile, UnsafeArchive

STRING_VECTOR, STRING = 16, 9
ENCODED_VERSION = 3  # from here on the header names the native encoding


def sword_chapters(members: Iterable[Member], options: Mapping[str, Any]) -> Iterator[str]:
    """One document per chapter, without notes, references and word codes."""
    del options
    files = {member.name: member.data for member in members}
    for name in sorted(files):
        if name.endswith("zs"):
            text = "".join(_blocks(files[name], files[name[:-1] + "z"], name))
            yield from map(_plain_osis, re.split(r"(?=<chapter [^>]*sID=)", text))


def _blocks(index: bytes, packed: bytes, name: str) -> Iterator[str]:
    for offset, size, _ in struct.iter_unpack("<III", index):
        if size:
            yield _inflate(packed[offset : offset + size], name)[0].decode("utf-8", "replace")


def _plain_osis(text: str) -> str:
    text = re.sub(r"<note\b.*?</note>", "", text, flags=re.DOTALL)
    text = re.sub(r"<title\b[^>]*>|</title>|<div [^>]*type=\"x-p\"[^>]*>", "\n", text)
    text = re.sub(r"<[^>]*>", "", text)
    return re.sub(r"[ \t]*\n[ \t\n]*", "\n", re.sub(r"[ \t]+", " ", text))


def r_novels(members: Iterable[Member], options: Mapping[str, Any]) -> Iterator[str]:
    """One document per chapter of each character vector in `Rdata.rdb`."""
    del options
    for member in members:
        for serialised in _lazy_objects(member):
            novel = "\n".join(_string_vector(serialised, member.name))
            yield from re.split(r"(?m)^(?=(?:CHAPTER|Chapter) )", novel)


def _lazy_objects(member: Member) -> Iterator[bytes]:
    rest = member.data
    while rest:
        serialised, rest = _inflate(rest[4:], member.name)
        yield serialised


def _inflate(packed: bytes, name: str) -> tuple[bytes, bytes]:
    bound = UnpackLimits().member_bytes
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(packed, bound)
    except zlib.error as error:
        raise TruncatedFile(f"{name} is damaged ({error}); fetch it again.") from error
    if stream.unconsumed_tail:
        raise UnsafeArchive(f"{name} unpacks to more than {bound} bytes; raise the limit.")
    return data, stream.unused_data


def _string_vector(data: bytes, name: str) -> Iterator[str]:
    """The strings of a serialised character vector: flags, length, bytes; -1 is NA."""
    version = int.from_bytes(data[2:6], "big")
    position = 14
    if version >= ENCODED_VERSION:
        position += 4 + int.from_bytes(data[14:18], "big")
    flags, count = struct.unpack_from(">II", data, position)
    if flags & 0xFF != STRING_VECTOR:
        raise TruncatedFile(f"{name} holds an R object of type {flags & 0xFF}, not text.")
    position += 8
    for _ in range(count):
        flags, length = struct.unpack_from(">Ii", data, position)
        if flags & 0xFF != STRING:
            raise TruncatedFile(f"{name} is damaged at byte {position}; fetch it again.")
        position += 8 + max(0, length)
        yield data[position - max(0, length) : position].decode("utf-8", "replace")
