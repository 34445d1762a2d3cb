"""Every format gives back what was written; folders and URLs stand for the files in them."""

import gzip
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixlab.corpora.reading.readers import (
    PathPolicy,
    ReadReport,
    list_files,
    read_documents,
    stored_bytes,
)
from mixlab.errors import (
    MissingFile,
    PathNotAllowed,
)
from tests.corpora.written import WRITERS, as_jsonl, as_parquet

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
DOCUMENTS = st.lists(TEXTS.filter(lambda text: bool(text.strip())), max_size=12)


@pytest.mark.parametrize("extension", WRITERS)
@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(documents=DOCUMENTS)
def test_documents_come_back_equal(tmp_path: Path, extension: str, documents: list[str]) -> None:
    file = tmp_path / f"domain.{extension}"
    file.write_bytes(WRITERS[extension](documents))
    report = ReadReport()
    assert list(read_documents(str(file), report=report)) == documents
    assert (report.files, report.documents) == (1, len(documents))
    assert report.bytes == sum(len(text.encode()) for text in documents)
    assert (report.replaced_characters, report.empty_documents) == (0, 0)
    if documents:
        assert report.stored_bytes == file.stat().st_size == stored_bytes(str(file))


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=TEXTS.filter(lambda text: bool(text.strip()) and text[0] != "\ufeff"))
def test_a_plain_text_file_is_one_document_with_its_line_ends(tmp_path: Path, text: str) -> None:
    for name, packed in (
        ("a.txt", text.encode()),
        ("a.MD", b"\xef\xbb\xbf" + text.encode()),
        ("a.rst.gz", gzip.compress(text.encode(), mtime=0)),
        ("a.py.zst", zstandard.compress(text.encode())),
    ):
        (tmp_path / name).write_bytes(packed)
        assert list(read_documents(str(tmp_path / name))) == [text]


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    raw=st.binary(min_size=1, max_size=40).filter(lambda raw: not raw.startswith(b"\xef\xbb\xbf"))
)
def test_invalid_utf8_is_replaced_as_python_does_and_counted(tmp_path: Path, raw: bytes) -> None:
    expected = raw.decode("utf-8", "replace")
    (tmp_path / "a.txt").write_bytes(raw)
    report = ReadReport()
    found = list(read_documents(str(tmp_path / "a.txt"), report=report))
    assert found == ([] if expected.isspace() else [expected])
    genuine = raw.decode("utf-8", "ignore").count("\ufffd")
    assert report.replaced_characters == expected.count("\ufffd") - genuine


def test_invalid_utf8_inside_records_is_replaced_and_counted_in_the_text_alone(
    tmp_path: Path,
) -> None:
    line = (
        b'{"other": "\xff\xfe", "text": "caf\xe9 \xe2\x82 \xef\xbf\xbd \\ud83d \\ud83d\\ude00"}\n'
    )
    (tmp_path / "a.jsonl").write_bytes(line)
    strings = pa.StringArray.from_buffers(
        2, pa.py_buffer(b"\0\0\0\0\4\0\0\0\7\0\0\0"), pa.py_buffer(b"caf\xe9\xe2\x82\xac")
    )
    pq.write_table(pa.table({"text": strings}), tmp_path / "b.parquet")
    report = ReadReport()
    found = list(read_documents(str(tmp_path), report=report))
    assert found == ["caf\ufffd \ufffd \ufffd \ufffd \U0001f600", "caf\ufffd", "€"]
    assert report.replaced_characters == 4
    assert report.bytes == sum(len(text.encode()) for text in found)


def test_empty_documents_are_left_out_and_counted(tmp_path: Path) -> None:
    documents = ["", "a", " \r\n\t", None, "b"]
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(documents))
    (tmp_path / "b.parquet").write_bytes(as_parquet(documents))
    (tmp_path / "c.txt").write_text("\n")
    (tmp_path / "d.jsonl").write_text("")
    (tmp_path / "e.parquet").write_bytes(as_parquet([]))
    report = ReadReport()
    assert list(read_documents(str(tmp_path), report=report)) == ["a", "b", "a", "b"]
    assert (report.files, report.documents, report.empty_documents) == (5, 4, 7)


def test_a_nested_text_field_is_named_with_dots_and_a_dotted_key_wins(tmp_path: Path) -> None:
    rows = [{"body": {"text": "nested"}}, {"body": {"text": "nested too"}}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "b.json").write_text(json.dumps(rows[0], indent=2))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    (tmp_path / "d.jsonl").write_text(json.dumps({"body.text": "dotted", "body": {"text": "x"}}))
    found = list(read_documents(str(tmp_path), text_field="body.text"))
    assert found == ["nested", "nested too", "nested", "nested", "nested too", "dotted"]


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "binary", "dictionary"])
def test_every_text_type_of_parquet_is_read(tmp_path: Path, kind: str) -> None:
    types = {"dictionary": pa.dictionary(pa.int32(), pa.string())}
    column = pa.array(["ä", None, "b", "ä"]).cast(types.get(kind) or getattr(pa, kind)())
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    assert list(read_documents(str(tmp_path / "a.parquet"))) == ["ä", "b", "ä"]


# Folders


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    folder = tmp_path / "mixed"
    for name in (
        "b/2.txt",
        "b/10.TXT",
        "a/x.py",
        "c/.git/config.txt",
        ".hidden.txt",
        "package.json",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "a" / "x.pyc").write_bytes(b"\0")
    (folder / "z.jsonl.gz").write_bytes(gzip.compress(as_jsonl(["z"])))
    os.mkfifo(folder / "pipe.txt")
    return folder


def test_a_folder_of_several_kinds_is_read_sorted_and_what_is_left_out_is_counted(
    mixed: Path,
) -> None:
    for policy in (None, PathPolicy((mixed,))):
        report = ReadReport()
        found = list(read_documents(f"{mixed}/", report=report, policy=policy))
        assert found == ["a/x.py", "b/10.TXT", "b/2.txt", "z"]
        assert report.skipped_files == {
            "hidden": 2,
            "unknown extension": 1,
            "FIFO": 1,
            "json beside plain text": 1,
        }
    names = [os.path.relpath(file, mixed) for file in list_files(str(mixed))]
    assert names == ["a/x.py", "b/10.TXT", "b/2.txt", "z.jsonl.gz"]


def test_links_in_a_folder_are_skipped_under_a_policy_and_followed_without_one(
    tmp_path: Path, mixed: Path
) -> None:
    folder = tmp_path / "links"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    (folder / "b.txt").symlink_to(folder / "a.txt")
    (folder / "broken.txt").symlink_to(tmp_path / "none.txt")
    (folder / "ring").symlink_to(folder)
    (folder / "self.txt").symlink_to(folder / "self.txt")
    (folder / "mixed").symlink_to(mixed / "a")
    report = ReadReport()
    policy = PathPolicy((tmp_path,))
    assert list(read_documents(str(folder), policy=policy, report=report)) == ["a"]
    assert report.skipped_files == {"symbolic link": 5}
    report = ReadReport()
    assert list(read_documents(str(folder), report=report)) == ["a", "a", "a/x.py"]
    assert report.skipped_files["broken symbolic link"] == 2


def test_a_folder_of_json_alone_is_records(tmp_path: Path) -> None:
    (tmp_path / "c4.json.gz").write_bytes(gzip.compress(as_jsonl(["a", "b"])))
    assert list(read_documents(str(tmp_path))) == ["a", "b"]


def test_a_folder_without_a_readable_file_says_what_was_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    for policy in (None, PathPolicy((tmp_path,))):
        with pytest.raises(MissingFile, match="1 x unknown extension"):
            read_documents(str(tmp_path), policy=policy)


def test_a_missing_file_fails_at_once(tmp_path: Path) -> None:
    for location in (str(tmp_path / "none.jsonl"), "memory://never/made", "relative/none.txt"):
        with pytest.raises(MissingFile, match="no"):
            read_documents(location)


def test_a_policy_also_guards_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    policy = PathPolicy((tmp_path / "root",))
    for location in (str(tmp_path / "a.txt"), f"file://{tmp_path}/a.txt", "memory://a.txt"):
        with pytest.raises(PathNotAllowed):
            read_documents(location, policy=policy)


@pytest.fixture
def memory() -> Iterator[Any]:
    file_system = fsspec.filesystem("memory")
    file_system.store.clear()
    yield file_system
    file_system.store.clear()


def test_remote_folders_read_like_local_ones(memory: Any) -> None:
    memory.pipe("/pile/b.jsonl.zst", zstandard.compress(as_jsonl(["b1", "b2"])))
    memory.pipe("/pile/sub/a.parquet", as_parquet(["p"]))
    memory.pipe("/pile/a.txt", b"a")
    memory.pipe("/pile/.hidden/x.txt", b"hidden")
    memory.pipe("/pile/x.bin", b"\0")
    policy = PathPolicy(remote_schemes=("memory",))
    for location in ("memory://pile", "memory:///pile/"):
        report = ReadReport()
        assert list(read_documents(location, policy=policy, report=report)) == [
            "a",
            "b1",
            "b2",
            "p",
        ]
        assert report.skipped_files == {"hidden": 1, "unknown extension": 1}
    files = list_files("memory://pile", policy)
    assert [text for file in files for text in read_documents(file, policy=policy)] == [
        *("a", "b1", "b2", "p")
    ]
    assert stored_bytes("memory://pile/a.txt") == 1


def test_an_unknown_scheme_and_a_missing_package_name_the_way_out() -> None:
    with pytest.raises(PathNotAllowed, match="gopher"):
        read_documents("gopher://a/b.txt")
    if not any(path for path in sys.path if (Path(path) / "s3fs").exists()):
        with pytest.raises(PathNotAllowed, match="s3fs"):
            read_documents("s3://bucket/b.txt")


def test_a_file_url_is_a_local_path(tmp_path: Path) -> None:
    (tmp_path / "100%25.txt").write_text("never decoded")
    assert list(read_documents(f"file://{tmp_path}/100%25.txt")) == ["never decoded"]
