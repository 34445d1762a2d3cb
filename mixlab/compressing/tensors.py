"""Rows of tensors in a safetensors file, chosen without loading them: any number format, bit
for bit.

    8 bytes     length of the header, little endian
    header      JSON: tensor name -> dtype, shape, data_offsets; "__metadata__" -> text by name
    data        all tensors, each row after row

Source: huggingface/safetensors, README. Memory: one chunk of rows.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mixlab.compressing.ranking import Ids
from mixlab.corpora.files import write_atomically
from mixlab.errors import MissingFile, NotWritten, TruncatedFile

CHUNK_BYTES = 1 << 24
LENGTH_BYTES = 8
ALIGNMENT = 8
LONGEST_HEADER = 100_000_000  # what safetensors itself reads
METADATA = "__metadata__"


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int  # byte of the file
    end: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, which is all behind the first axis."""
        return (self.end - self.begin) // max(1, self.shape[0])


@dataclass(frozen=True)
class Header:
    """What a file of tensors says of itself."""

    tensors: Mapping[str, StoredTensor]  # in the order of the file
    metadata: Mapping[str, str]


def read_header(file: Path) -> Header:
    """The header of a safetensors file. Raises MissingFile, TruncatedFile."""
    if not file.is_file():
        raise MissingFile(f"There are no weights at {file}; give a safetensors file.")
    try:
        with file.open("rb") as handle:
            length = int.from_bytes(handle.read(LENGTH_BYTES), "little")
            if length > LONGEST_HEADER:
                raise ValueError(f"a header of {length} bytes")
            value = json.loads(handle.read(length))
        first = LENGTH_BYTES + length
        metadata = value.pop(METADATA, {})
        tensors = {name: _stored(entry, first) for name, entry in value.items()}
        if max((t.end for t in tensors.values()), default=first) != file.stat().st_size:
            raise ValueError("its length is another than its header says")
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise TruncatedFile(
            f"{file} can't be read as safetensors ({problem}); write or fetch it again."
        ) from problem
    return Header(dict(sorted(tensors.items(), key=lambda item: item[1].begin)), metadata)


def _stored(entry: Mapping[str, Any], first: int) -> StoredTensor:
    begin, end = (first + int(offset) for offset in entry["data_offsets"])
    shape = tuple(map(int, entry["shape"]))
    if end < begin or (shape and (end - begin) % max(1, prod(shape))):
        raise ValueError(f"{end - begin} bytes of the shape {shape}")
    return StoredTensor(str(entry["dtype"]), shape, begin, end)


def select_rows(
    source: Path, out: Path, rows: Mapping[str, Ids], metadata: Mapping[str, str]
) -> None:
    """Write the tensors of `source` to `out`, of those named in `rows` these rows alone.

    `rows` are indices of the first axis, shape (row,). The file appears whole or not at all.
    Raises MissingFile and TruncatedFile for the source, NotWritten for the other.
    """
    header = read_header(source)
    try:
        with source.open("rb") as read:
            write_atomically(out, lambda path: _write(read, path, header, rows, metadata))
    except OSError as problem:
        raise NotWritten(f"{out} couldn't be written ({problem}); make room.") from problem


def _write(
    read: BinaryIO,
    path: Path,
    header: Header,
    rows: Mapping[str, Ids],
    metadata: Mapping[str, str],
) -> None:
    value: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    offset = 0
    for name, tensor in header.tensors.items():
        shape = (len(rows[name]), *tensor.shape[1:]) if name in rows else tensor.shape
        size = len(rows[name]) * tensor.row_bytes if name in rows else tensor.end - tensor.begin
        value[name] = {
            "dtype": tensor.dtype, "shape": shape, "data_offsets": (offset, offset + size),
        }  # fmt: skip
        offset += size
    text = json.dumps(value, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("wb") as write:
        write.write(len(text).to_bytes(LENGTH_BYTES, "little") + text)
        for name, tensor in header.tensors.items():
            if name in rows:
                _copy_rows(read, write, tensor, rows[name])
            else:
                _copy(read, write, tensor)


def _copy(read: BinaryIO, write: BinaryIO, tensor: StoredTensor) -> None:
    read.seek(tensor.begin)
    left = tensor.end - tensor.begin
    while left:
        chunk = read.read(min(left, CHUNK_BYTES))
        if not chunk:
            raise OSError("the weights became shorter while they were read")
        write.write(chunk)
        left -= len(chunk)


def _copy_rows(read: BinaryIO, write: BinaryIO, tensor: StoredTensor, rows: Ids) -> None:
    if not tensor.end - tensor.begin:
        return
    table = np.memmap(
        read,
        dtype=np.uint8,
        mode="r",
        offset=tensor.begin,
        shape=(tensor.shape[0], tensor.row_bytes),
    )
    step = max(1, CHUNK_BYTES // tensor.row_bytes)
    for start in range(0, len(rows), step):
        write.write(table[rows[start : start + step]].tobytes())
