"""What a Parquet file says of itself, read without Arrow: sizes, rows, dictionaries.

PyArrow ends the whole process (a C++ exception that Cython doesn't catch) when it is
asked for the column chunks of a damaged footer, so the few numbers that the limits
need are decoded here. A footer and a page header are Thrift structs in the compact
protocol: a byte of field step and type, then the value; integers are zigzag varints.

Source: https://github.com/apache/parquet-format (parquet.thrift: FileMetaData,
RowGroup, ColumnChunk, ColumnMetaData, PageHeader) and Thrift's compact protocol spec.
"""

from dataclasses import dataclass
from typing import Any, BinaryIO

from mixlab.corpora.reading.limits import MEBIBYTE

MAGIC = b"PAR1"
MAX_FOOTER_BYTES = 8 * MEBIBYTE
_MAX_DEPTH = 24
_PAGE_HEADER_BYTES = 64  # type and sizes come first; statistics may follow
_DICTIONARY_PAGE = 2
_TRUE, _FALSE, _I8, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12


class DamagedFooter(ValueError):
    """Bytes that are no Parquet footer; the reader names the file."""


@dataclass(frozen=True)
class ColumnChunk:
    """One column of one row group."""

    path: str
    unpacked_bytes: int
    first_page: int  # offset in the file; 0 if there is none


@dataclass(frozen=True)
class Footer:
    """The part of FileMetaData that limits are held against."""

    rows: int
    chunks: tuple[ColumnChunk, ...]


def read_footer(stored: BinaryIO, stored_bytes: int, length: int) -> Footer:
    """Decode the last `length` bytes before the file's tail. Raises DamagedFooter."""
    stored.seek(max(0, stored_bytes - 8 - length))
    try:
        fields = _Decoder(stored.read(length)).struct(0)
        chunks = (_chunk(column[3]) for group in fields.get(4, []) for column in group.get(1, []))
        return Footer(int(fields[3]), tuple(chunks))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DamagedFooter(f"its footer is damaged ({error!r})") from error


def dictionary_bytes(stored: BinaryIO, chunk: ColumnChunk) -> int:
    """Unpacked bytes of a column chunk's dictionary, 0 if its first page is none."""
    if not 0 < chunk.first_page < 1 << 62:
        return 0
    stored.seek(chunk.first_page)
    decoder = _Decoder(stored.read(_PAGE_HEADER_BYTES))
    try:
        kind, size = decoder.i32_field(), decoder.i32_field()
    except IndexError as error:
        raise DamagedFooter("a page header is damaged") from error
    return size if kind == _DICTIONARY_PAGE else 0


def _chunk(meta: dict[int, Any]) -> ColumnChunk:
    # Some writers leave the dictionary's offset at 0 where there is no dictionary.
    first = min((offset for offset in (meta[9], meta.get(11)) if offset), default=0)
    return ColumnChunk(".".join(name.decode() for name in meta[3]), int(meta[6]), int(first))


class _Decoder:
    """Thrift's compact protocol; running past the end is an IndexError."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._at = 0

    def struct(self, depth: int) -> dict[int, Any]:
        """Fields by their numbers."""
        if depth > _MAX_DEPTH:
            raise DamagedFooter("its footer is nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            fields[number] = kind == _TRUE if kind <= _FALSE else self._value(kind, depth)
        return fields

    def i32_field(self) -> int:
        """The value of a field that must be the next one, and an i32."""
        if self._byte() != 0x15:
            raise DamagedFooter("a page header is damaged")
        return self._integer()

    def _value(self, kind: int, depth: int) -> Any:
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_LIST, _SET):
            return self._list(depth + 1)
        if kind == _BINARY:
            return self._take(self._varint())
        if kind == _DOUBLE:
            return self._take(8)
        if kind in (_TRUE, _FALSE, _I8):  # a bool in a list takes a byte
            return self._byte()
        if kind == _MAP or kind > _STRUCT:
            raise DamagedFooter(f"its footer holds a value of type {kind}, which Parquet lacks")
        return self._integer()

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        count = head >> 4 if head >> 4 != 15 else self._varint()
        return [self._value(head & 15, depth) for _ in range(count)]

    def _byte(self) -> int:
        self._at += 1
        return self._raw[self._at - 1]

    def _take(self, count: int) -> bytes:
        if self._at + count > len(self._raw):
            raise IndexError("past the end")
        self._at += count
        return self._raw[self._at - count : self._at]

    def _varint(self) -> int:
        value = 0
        for place in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << place
            if byte < 128:
                return value
        raise DamagedFooter("its footer holds a number without an end")

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
