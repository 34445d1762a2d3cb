"""Documents written in every format that the readers know."""

import gzip
import io
import json
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard


def as_jsonl(documents: Iterable[Any], *, end: str = "\n") -> bytes:
    return "".join(json.dumps({"id": 7, "text": text}) + end for text in documents).encode()


def as_parquet(documents: Iterable[Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    column = pa.array(list(documents), pa.string())
    pq.write_table(pa.table({"id": range(len(column)), "text": column}), buffer, **options)
    return buffer.getvalue()


def as_one_json_list(documents: Iterable[Any]) -> bytes:
    return json.dumps([{"text": text} for text in documents], indent=1, ensure_ascii=False).encode()


WRITERS: dict[str, Callable[[list[str]], bytes]] = {
    "jsonl": as_jsonl,
    "JSONL": lambda texts: b"\xef\xbb\xbf" + as_jsonl(texts, end="\r\n\r\n"),
    "ndjson": lambda texts: as_jsonl(texts).removesuffix(b"\n"),
    "json": as_jsonl,
    "list.json": as_one_json_list,
    "jsonl.gz": lambda texts: gzip.compress(as_jsonl(texts)),
    "members.jsonl.gz": lambda texts: (
        b"".join(gzip.compress(as_jsonl([text])) for text in texts) + gzip.compress(b"")
    ),
    "jsonl.zst": lambda texts: zstandard.compress(as_jsonl(texts)),
    "frames.jsonl.ZST": lambda texts: (
        zstandard.compress(b"")
        + b"".join(zstandard.compress(as_jsonl([text])) for text in texts)
        + b"\x50\x2a\x4d\x18\x03\0\0\0abc"
    ),  # a skippable frame
    "parquet": as_parquet,
    "groups.PQ": lambda texts: as_parquet(texts, row_group_size=2, compression="zstd"),
    "plain.parquet": lambda texts: as_parquet(texts, use_dictionary=False),
}
