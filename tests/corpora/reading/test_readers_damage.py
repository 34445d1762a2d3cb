"""Damaged files, wrong records and bombs fail by name, place and way out; memory stays flat."""

import gzip
import io
import json
import os
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from mixlab.corpora.reading import streams
from mixlab.corpora.reading.limits import MEBIBYTE
from mixlab.corpora.reading.readers import (
    ReadLimits,
    ReadReport,
    read_documents,
)
from mixlab.errors import (
    InvalidInput,
    LimitExceeded,
    MissingTextField,
    TruncatedFile,
    UnreadableData,
)
from tests.corpora.written import WRITERS, as_jsonl, as_one_json_list, as_parquet

# Damage


LINES = as_jsonl([f"document {number} {os.urandom(40).hex()}" for number in range(2000)])


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)),
        ("a.jsonl.zst", zstandard.compress(LINES)),
        ("a.parquet", as_parquet([str(number) for number in range(2000)])),
        ("a.txt.zst", zstandard.ZstdCompressor(write_checksum=False).compress(LINES)),
    ],
)
def test_a_file_cut_anywhere_is_an_error_that_names_it(
    tmp_path: Path, name: str, whole: bytes
) -> None:
    file = tmp_path / name
    cuts = {0, 1, 3, 4, 8, 11, 18, len(whole) // 3, len(whole) // 2, len(whole) - 9, len(whole) - 1}
    for cut in sorted(cuts):
        file.write_bytes(whole[:cut])
        with pytest.raises(TruncatedFile, match=name):
            list(read_documents(str(file)))


def test_documents_before_the_cut_are_handed_out_and_the_place_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(gzip.compress(LINES)[:-2000])
    report = ReadReport()
    with pytest.raises(TruncatedFile, match=r"at byte \d+ stored, \d+ unpacked"):
        list(read_documents(str(file), report=report))
    assert 1000 < report.documents < 2000


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_file_that_is_not_what_its_name_says_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"plain words, " * 100)
    with pytest.raises(TruncatedFile, match=name):
        list(read_documents(str(tmp_path / name)))


@pytest.mark.parametrize(
    ("name", "seed_bytes"),
    [
        ("a.parquet", as_parquet(["words", "more"] * 50, compression="zstd")),
        ("a.jsonl.gz", gzip.compress(LINES[:3000], mtime=0)),
        ("a.json.zst", zstandard.compress(LINES[:3000])),
    ],
)
def test_random_damage_never_ends_in_an_error_of_another_kind(
    tmp_path: Path, name: str, seed_bytes: bytes
) -> None:
    rng = random.Random(5)
    for _ in range(300):
        damaged = bytearray(seed_bytes)
        for _ in range(rng.randint(1, 6)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        (tmp_path / name).write_bytes(damaged)
        try:
            list(read_documents(str(tmp_path / name)))
        except UnreadableData as error:
            assert name in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "broken", ['{"text": "never clo', '{"text": "a"} {"text": "b"}', "words", "{'text': 'a'}", "]"]
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_broken_line_is_named(tmp_path: Path, name: str, broken: str) -> None:
    (tmp_path / name).write_text('{"text": "a"}\n\n' + broken + "\n")
    documents = read_documents(str(tmp_path / name))
    assert next(documents) == "a"
    with pytest.raises(TruncatedFile, match=rf"{name}', line 3: broken JSON.*column"):
        next(documents)


@pytest.mark.parametrize("broken", ['[{"text": "a"}, {"te', '{\n "text": "a"\n', "words"])
def test_a_broken_json_file_is_named(tmp_path: Path, broken: str) -> None:
    (tmp_path / "a.json").write_text(broken)
    with pytest.raises(TruncatedFile, match=r"a.json', as one JSON value: broken"):
        list(read_documents(str(tmp_path / "a.json")))


def test_a_missing_text_field_names_file_line_and_the_fields_there_are(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"content": "b", "url": "c"}\n')
    with pytest.raises(
        MissingTextField, match=r"a.jsonl', line 2: no field 'text'.*'content', 'url'"
    ):
        list(read_documents(str(tmp_path / "a.jsonl")))
    pq.write_table(pa.table({"content": ["b"], "url": ["c"]}), tmp_path / "b.parquet")
    with pytest.raises(MissingTextField, match=r"b.parquet': no column 'text'.*'content', 'url'"):
        list(read_documents(str(tmp_path / "b.parquet")))


@pytest.mark.parametrize("record", ['"a"', '["a"]', "3", '{"text": 3}', '{"text": ["a"]}', "{}"])
def test_a_record_without_a_string_is_an_error(tmp_path: Path, record: str) -> None:
    (tmp_path / "a.jsonl").write_text(record)
    with pytest.raises(MissingTextField, match=r"line 1.*'text'"):
        list(read_documents(str(tmp_path / "a.jsonl")))


@pytest.mark.parametrize("field", ["number", "list", "struct", "struct.none", "number.text"])
def test_a_parquet_column_that_is_no_text_is_an_error(tmp_path: Path, field: str) -> None:
    table = pa.table({"number": [1], "list": [["a"]], "struct": [{"text": "a"}]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(MissingTextField, match=field):
        list(read_documents(str(tmp_path / "a.parquet"), text_field=field))


def test_messages_stay_short_for_records_with_endless_fields(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"x" * 5000 + str(n): 1 for n in range(500)}))
    with pytest.raises(MissingTextField, match="488 more") as caught:
        list(read_documents(str(tmp_path / "a.jsonl")))
    assert len(str(caught.value)) < 2000


def test_a_binary_file_of_unknown_kind_is_refused_and_a_text_one_is_read(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("free")
    assert list(read_documents(str(tmp_path / "LICENSE"))) == ["free"]
    (tmp_path / "a.bin").write_bytes(b"ab\0c")
    with pytest.raises(MissingTextField, match=r"binary data.*NUL at byte 2"):
        list(read_documents(str(tmp_path / "a.bin")))


# Bombs


def zeros(mebibytes: int) -> bytes:
    return bytes(mebibytes * MEBIBYTE)


def parquet_bomb() -> bytes:
    """100 KB that stand for 2 TB: one value of 1 MiB, named two million times."""
    one = pa.DictionaryArray.from_arrays(pa.array([0] * 2_000_000, pa.int32()), ["x" * MEBIBYTE])
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": one}), buffer, store_schema=False)
    return buffer.getvalue()


def parquet_of_nulls() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": pa.nulls(20_000_000, pa.string())}), buffer)
    return buffer.getvalue()


BOMBS: dict[str, Callable[[], bytes]] = {
    "a.jsonl.gz": lambda: gzip.compress(zeros(40)),
    "a.txt.zst": lambda: zstandard.compress(zeros(40)),
    "frames.txt.zst": lambda: zstandard.compress(zeros(1)) * 40,
    "one_value.parquet": parquet_bomb,
    "nulls.parquet": parquet_of_nulls,
    "packed.parquet": lambda: as_parquet(
        ["x" * MEBIBYTE + str(n) for n in range(40)], compression="zstd"
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_while_memory_stays_small(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(BOMBS[name]())
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        documents = read_documents(str(tmp_path / name))
        taken = (pa.total_allocated_bytes() - before < 200 * MEBIBYTE for _ in documents)
        with pytest.raises(LimitExceeded, match=name):
            all(taken) or pytest.fail("a batch took too much")
        assert tracemalloc.get_traced_memory()[1] < 100 * MEBIBYTE
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.jsonl.gz", "a.parquet"])
def test_a_file_above_max_file_bytes_is_refused(tmp_path: Path, name: str) -> None:
    writer = WRITERS.get(name.removeprefix("a."), lambda texts: "\n".join(texts).encode())
    (tmp_path / name).write_bytes(writer([os.urandom(500).hex() for _ in range(100)]))
    limits = ReadLimits(max_file_bytes=50_000)
    with pytest.raises(LimitExceeded, match=rf"{name}.*max_file_bytes"):
        list(read_documents(str(tmp_path / name), limits=limits))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet", "list.json"])
def test_a_document_above_max_document_bytes_is_refused(tmp_path: Path, name: str) -> None:
    writer = {"a.txt": lambda texts: texts[-1].encode(), "list.json": as_one_json_list}.get(
        name, WRITERS.get(name.removeprefix("a."), as_jsonl)
    )
    (tmp_path / name).write_bytes(writer(["short", "x" * 3_000_000]))
    limits = ReadLimits(max_document_bytes=2_500_000)
    with pytest.raises(LimitExceeded, match=rf"{name}.*max_document_bytes"):
        list(read_documents(str(tmp_path / name), limits=limits))


def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    with (tmp_path / "a.jsonl").open("wb") as file:
        file.truncate(2 * 1024 * MEBIBYTE)  # sparse: 2 GiB of zeros
    tracemalloc.start()
    try:
        with pytest.raises(LimitExceeded, match=r"line 1"):
            list(read_documents(str(tmp_path / "a.jsonl")))
        assert tracemalloc.get_traced_memory()[1] < 100 * MEBIBYTE
    finally:
        tracemalloc.stop()


def test_a_zstd_window_above_128_mib_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "ZSTD_WINDOW_BYTES", MEBIBYTE)
    wide = zstandard.ZstdCompressionParameters(window_log=22)
    packer = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    (tmp_path / "a.txt.zst").write_bytes(packer.compress(zeros(8)) + packer.flush())
    with pytest.raises(LimitExceeded, match="window"):
        list(read_documents(str(tmp_path / "a.txt.zst")))


def test_json_nested_too_deeply_and_numbers_without_end_are_no_crash(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": ' + "[" * 200_000)
    with pytest.raises(LimitExceeded, match="nested"):
        list(read_documents(str(tmp_path / "a.jsonl")))
    (tmp_path / "b.jsonl").write_text('{"n": ' + "9" * 10_000 + ', "text": "a"}')
    assert list(read_documents(str(tmp_path / "b.jsonl"))) == ["a"]


def test_a_parquet_footer_above_its_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + bytes(100) + b"\xff\xff\xff\x7f" + b"PAR1")
    with pytest.raises(LimitExceeded, match="footer"):
        list(read_documents(str(tmp_path / "a.parquet")))


def test_limits_that_are_not_positive_can_not_be_built() -> None:
    for name in ("max_file_bytes", "max_ratio", "max_document_bytes"):
        for value in (0, -1, float("nan")):
            with pytest.raises(InvalidInput, match=name):
                ReadLimits(**{name: value})


# Memory


READ_AND_TELL_PEAK = """
import re, resource, sys
from pathlib import Path
from mixlab.corpora.reading.readers import read_documents
for _ in read_documents(sys.argv[1]): pass
if sys.platform == "linux":  # where ru_maxrss starts with the parent's
    status = Path("/proc/self/status").read_text()
    print(int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) * 1024)
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def write_large(file: Path, documents: int) -> None:
    """Documents of 10 kB that don't compress, so that a column chunk is as long as its text."""
    noise = random.Random(3).randbytes(documents * 5000).hex()
    texts = [noise[start : start + 10_000] for start in range(0, len(noise), 10_000)]
    if file.suffix == ".parquet":
        pq.write_table(pa.table({"text": texts}), file, row_group_size=documents)
        return
    raw = as_jsonl(texts)
    packers = {".gz": lambda: gzip.compress(raw, 0), ".zst": lambda: zstandard.compress(raw, 1)}
    file.write_bytes(packers[file.suffix]())


def peak_bytes(file: Path) -> int:
    command = [sys.executable, "-c", READ_AND_TELL_PEAK, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    write_large(tmp_path / name, 2_000)
    small = peak_bytes(tmp_path / name)
    write_large(tmp_path / name, 6_000)  # 40 MB more, all in one row group
    assert peak_bytes(tmp_path / name) - small < 24 * MEBIBYTE
