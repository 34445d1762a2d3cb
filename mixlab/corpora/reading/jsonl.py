"""Texts out of JSON lines and JSON files.

JSON lines: one object a line; blank lines are passed over; CRLF is fine. A `.json`
file is JSON lines if its first line is a whole object; else it is one value, an
object or a list of objects, that must fit max_document_bytes.

The text field is a key, or keys with dots between for nested objects; a key that
itself holds dots wins. A null text is an empty document. Limits: parsing one line
takes up to 25 times its bytes where it is made of tiny objects.
"""

import json
from collections.abc import Iterator
from itertools import chain
from typing import Any

from mixlab.corpora.reading.decoding import BYTE_ORDER_MARK, decode_keeping_bytes
from mixlab.corpora.reading.limits import Meter
from mixlab.errors import LimitExceeded, MissingTextField, TruncatedFile

_SHOWN_FIELDS = 12
_SHOWN_CHARACTERS = 40

# Integers become floats: Python refuses to parse those of more than 4,300 digits.
_DECODER = json.JSONDecoder(parse_int=float)


def jsonl_texts(pieces: Iterator[bytes], text_field: str, meter: Meter) -> Iterator[str | None]:
    """The text of every record; None where it is null.

    Raises TruncatedFile for a broken line, MissingTextField, LimitExceeded for a long line.
    """
    return _line_texts(filled_lines(pieces, meter), text_field, meter)


def json_texts(pieces: Iterator[bytes], text_field: str, meter: Meter) -> Iterator[str | None]:
    """As jsonl_texts, for a file that holds one value or JSON lines."""
    filled = filled_lines(pieces, meter)
    start = next(filled, None)
    if start is None:
        return
    first = start[1]
    if _is_object(first):
        yield from _line_texts(chain([start], filled), text_field, meter)
        return
    value = _parsed(_joined(first, filled, meter), "as one JSON value", meter)
    records = value if isinstance(value, list) else [value]
    for place, record in enumerate(records, start=1):
        yield text_of(record, text_field, f"record {place}", meter)


def filled_lines(pieces: Iterator[bytes], meter: Meter) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, numbered from 1, none longer than max_document_bytes."""
    number, size = 1, 0
    pending: list[bytes] = []
    for piece in pieces:
        *whole, rest = piece.split(b"\n")
        for part in whole:
            if part or pending:
                meter.check_document(size + len(part), f"line {number}")
                yield from _unless_blank(number, b"".join((*pending, part)))
                pending.clear()
            number, size = number + 1, 0
        if rest:
            size += len(rest)
            meter.check_document(size, f"line {number}")
            pending.append(rest)
    yield from _unless_blank(number, b"".join(pending))


def _unless_blank(number: int, line: bytes) -> Iterator[tuple[int, bytes]]:
    text = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
    if text and not text.isspace():
        yield number, text


def _line_texts(
    filled: Iterator[tuple[int, bytes]], text_field: str, meter: Meter
) -> Iterator[str | None]:
    for number, line in filled:
        where = f"line {number}"
        yield text_of(_parsed(line, where, meter), text_field, where, meter)


def text_of(record: Any, text_field: str, where: str, meter: Meter) -> str | None:
    """The text in a parsed record; None if it is null. Raises MissingTextField."""
    if not isinstance(record, dict):
        raise MissingTextField(
            f"{meter.file!r}, {where}: a JSON {_type_name(record)}, not an object with the text "
            f"field {text_field!r}."
        )
    found, value = _looked_up(record, text_field)
    if not found:
        raise MissingTextField(
            f"{meter.file!r}, {where}: no field {text_field!r}; the record has "
            f"{shown_fields(list(record))}. Name the right one as text_field."
        )
    if value is None or isinstance(value, str):
        return value
    raise MissingTextField(
        f"{meter.file!r}, {where}: the field {text_field!r} holds a JSON {_type_name(value)}, "
        f"not a string; the record has {shown_fields(list(record))}."
    )


def shown_fields(names: list[str]) -> str:
    """Field names for a message, bounded in number and length."""
    if not names:
        return "no fields"
    shown = ", ".join(repr(name[:_SHOWN_CHARACTERS]) for name in names[:_SHOWN_FIELDS])
    rest = len(names) - _SHOWN_FIELDS
    return f"the fields {shown}" + (f" and {rest} more" if rest > 0 else "")


def _looked_up(record: dict[str, Any], text_field: str) -> tuple[bool, Any]:
    if text_field in record:
        return True, record[text_field]
    value: Any = record
    for key in text_field.split("."):
        if not isinstance(value, dict) or key not in value:
            return False, None
        value = value[key]
    return True, value


def _type_name(value: Any) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", float: "number"}
    return names.get(type(value), "null")


def _parsed(line: bytes, where: str, meter: Meter) -> Any:
    try:
        return _DECODER.decode(decode_keeping_bytes(line))
    except RecursionError as error:
        raise LimitExceeded(f"{meter.file!r}, {where}: nested too deeply to be text.") from error
    except json.JSONDecodeError as error:
        raise TruncatedFile(
            f"{meter.file!r}, {where}: broken JSON, {error.msg} at column {error.colno} (the file "
            f"was read to byte {meter.unpacked}); repair or remove the line."
        ) from error


def _is_object(line: bytes) -> bool:
    if not line.lstrip().startswith(b"{"):
        return False
    try:
        return isinstance(_DECODER.decode(decode_keeping_bytes(line)), dict)
    except (ValueError, RecursionError):
        return False


def _joined(first: bytes, rest: Iterator[tuple[int, bytes]], meter: Meter) -> bytes:
    parts, size = [first], len(first)
    for _, line in rest:
        size += len(line) + 1
        meter.check_document(size, "as one JSON value")
        parts.append(line)
    return b"\n".join(parts)
