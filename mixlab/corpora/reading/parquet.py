"""Texts out of one Parquet column, read in small batches.

The footer is judged before any page is read: its size, its row count, and the bytes
that the text column says it unpacks to. Rows handed out count against the limits
again, since a footer may lie.

A page can name one long value of its column's dictionary a million times (the
"42.parquet" bomb), and Arrow writes the value out for every row of a batch. So a
batch has few enough rows that each could be the whole dictionary.

Limits: a crafted file whose dictionary is not its first page, or whose page lies
about its size (up to 2 GiB, a 32-bit field that Arrow trusts), gets past this; read
files of strangers in a process of its own with a memory limit.
"""

from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mixlab.corpora.reading.decoding import decode_keeping_bytes
from mixlab.corpora.reading.jsonl import shown_fields
from mixlab.corpora.reading.limits import MEBIBYTE, Meter
from mixlab.corpora.reading.parquet_footer import (
    MAGIC,
    MAX_FOOTER_BYTES,
    DamagedFooter,
    Footer,
    dictionary_bytes,
    read_footer,
)
from mixlab.errors import LimitExceeded, MissingTextField, TruncatedFile

BATCH_BYTES = 8 * MEBIBYTE
MAX_BATCH_ROWS = 1024
MAX_BATCH_BYTES = 64 * MEBIBYTE  # if every row were the whole dictionary


def parquet_texts(stored: BinaryIO, text_field: str, meter: Meter) -> Iterator[str | None]:
    """The text of every row, None where it is null; invalid UTF-8 as lone surrogates.

    Raises TruncatedFile if damaged, MissingTextField, LimitExceeded past a limit.
    """
    stored_bytes, footer_bytes = _checked_size(stored, meter)
    try:
        footer = read_footer(stored, stored_bytes, footer_bytes)
        file = _opened(stored)
        names = _column(file.schema_arrow, text_field, meter)
        rows = _batch_rows(stored, footer, ".".join(names), stored_bytes, meter)
        yield from _rows(file, names, rows, stored_bytes, meter)
    except MemoryError:  # Arrow's is an ArrowException too, but no sign of damage
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError, DamagedFooter) as error:
        raise TruncatedFile(
            f"{meter.file!r} is no whole Parquet file: {str(error)[:300]}; bring it here again."
        ) from error


def _checked_size(stored: BinaryIO, meter: Meter) -> tuple[int, int]:
    """Bytes of the file and of its footer, after a look at its two magic words."""
    size = stored.seek(0, 2)
    stored.seek(max(0, size - 8))
    tail = stored.read(8)
    stored.seek(0)
    if size < 12 or tail[4:] != MAGIC or stored.read(4) != MAGIC:
        raise TruncatedFile(
            f"{meter.file!r} is no whole Parquet file: {size} bytes that don't start and end with "
            "'PAR1'; bring it here again."
        )
    footer = int.from_bytes(tail[:4], "little")
    if footer > MAX_FOOTER_BYTES:
        raise LimitExceeded(
            f"{meter.file!r} has a Parquet footer of {footer} bytes, above {MAX_FOOTER_BYTES}; "
            "write it with fewer columns or larger row groups."
        )
    return size, footer


def _opened(stored: BinaryIO) -> Any:
    stored.seek(0)
    return pq.ParquetFile(
        stored,
        buffer_size=MEBIBYTE,  # else Arrow reads whole column chunks
        pre_buffer=False,
        thrift_string_size_limit=MAX_FOOTER_BYTES,
    )


def _column(schema: Any, text_field: str, meter: Meter) -> list[str]:
    """The names that lead to the text: one, or more through structs. Raises MissingTextField."""
    names = [text_field] if text_field in schema.names else text_field.split(".")
    kind: Any = pa.struct(list(schema))
    for name in names:
        if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
            raise MissingTextField(
                f"{meter.file!r}: no column {text_field!r}; the file has "
                f"{shown_fields(schema.names)}. Name the right one as text_field."
            )
        kind = kind.field(name).type
    if not _is_text(kind.value_type if pa.types.is_dictionary(kind) else kind):
        raise MissingTextField(
            f"{meter.file!r}: the column {text_field!r} is of type {kind}, not text; the file has "
            f"{shown_fields(schema.names)}."
        )
    return names


def _is_text(kind: Any) -> bool:
    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(check(kind) for check in (*checks, pa.types.is_binary, pa.types.is_large_binary))


def _batch_rows(
    stored: BinaryIO, footer: Footer, path: str, stored_bytes: int, meter: Meter
) -> int:
    """Rows of a batch, after holding what the footer says against the limits."""
    chunks = [chunk for chunk in footer.chunks if chunk.path == path]
    declared = sum(chunk.unpacked_bytes for chunk in chunks)
    # A row costs time even if it is null, so it counts as a byte at least.
    meter.check(max(declared, footer.rows), stored_bytes)
    mean_bytes = max(1, declared // max(1, footer.rows))
    dictionary = max((dictionary_bytes(stored, chunk) for chunk in chunks), default=0)
    rows = min(MAX_BATCH_ROWS, BATCH_BYTES // mean_bytes, MAX_BATCH_BYTES // max(1, dictionary))
    return max(1, rows)


def _rows(
    file: Any, names: list[str], rows: int, stored_bytes: int, meter: Meter
) -> Iterator[str | None]:
    done = 0
    for batch in file.iter_batches(batch_size=rows, columns=[".".join(names)], use_threads=False):
        done += batch.num_rows
        share = stored_bytes * done // max(1, file.metadata.num_rows)
        meter.take_stored(share - meter.stored)
        for raw in _values(batch, names):
            # Held against the whole file, since repeated values may come first.
            meter.unpacked += 1 if raw is None else len(raw) + 1
            meter.check(meter.unpacked, stored_bytes)
            if raw is not None:
                meter.check_document(len(raw), f"row group batch ending at row {done}")
            yield None if raw is None else decode_keeping_bytes(raw)


def _values(batch: Any, names: list[str]) -> Iterator[bytes | None]:
    """Values as bytes, since Parquet doesn't promise that strings are valid UTF-8."""
    column: Any = pa.StructArray.from_arrays(batch.columns, names=batch.schema.names)
    for name in names:
        column = pc.struct_field(column, name)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    for value in column.cast(pa.large_binary()):
        yield value.as_py()
