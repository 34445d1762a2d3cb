"""Files made to fill the memory, the disk or the day of whoever reads them.

What the readers refuse by themselves stands in tests/corpora/reading; here is what gets past them,
in the real process of a job, and what its supervisor makes of the end of it.
"""

import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixlab.corpora.reading.readers import read_documents
from mixlab.corpora.tokenizer import train_tokenizer
from mixlab.errors import LimitExceeded, UnreadableData
from mixlab.ledger import Ledger
from mixlab.ledger.records import Job, JobKind, JobState, Queue
from tests.corpora.written import as_jsonl
from workers.jobs.bounds import NOTE, Note, bounded, fault_of
from workers.settings import WorkerSettings
from workers.supervisor import supervise

MIB = 2**20
MEMORY = 700 * MIB


def lying_page(claimed: int) -> bytes:
    """A Parquet file of under a kilobyte, the page of which says that it unpacks to so many bytes.

    Only the page's header is changed, and the page cut by what that grows, so the footer stays
    right and tells of a few bytes.
    """
    buffer = io.BytesIO()
    table = pa.table({"text": ["x" * 60]})
    pq.write_table(
        table, buffer, compression="snappy", use_dictionary=False, write_statistics=False
    )
    raw = buffer.getvalue()
    # The header's first fields: type, unpacked size, stored size; each is 0x15 and a zigzag varint.
    assert raw[4:7] == b"\x15\x00\x15"
    size_at = 7
    stored_at = size_at + 1
    while raw[stored_at - 1] & 0x80:
        stored_at += 1
    assert raw[stored_at] == 0x15
    stored = raw[stored_at + 1]
    assert stored < 0x80
    size = varint(2 * claimed)
    grown = len(size) - (stored_at - size_at)
    page_end = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    head = raw[:size_at] + size + b"\x15" + bytes([stored - 2 * grown])
    return head + raw[stored_at + 2 : page_end - grown] + raw[page_end:]


def varint(number: int) -> bytes:
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(found) + bytes([number])


HOSTILE: dict[str, Callable[[], bytes]] = {
    # Of an 844-byte file ClickHouse allocated 104 GiB; a page's size is what Arrow trusts.
    "page.parquet": lambda: lying_page(2**31 - 1),
    "deep.jsonl": lambda: b'{"text":' + b"[" * 30_000_000,
    "endless.jsonl": lambda: b"\0" * 40_000_000,
    "keys.jsonl": lambda: b"{" + b",".join(b'"%d":0' % n for n in range(600_000)) + b"}",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_what_the_readers_meet_is_an_error_that_names_the_file(tmp_path: Path, name: str) -> None:
    """In a process with little memory, where anything else would be a crash."""
    (tmp_path / name).write_bytes(HOSTILE[name]())
    script = (
        "import resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_DATA, ({MEMORY}, {MEMORY}))\n"
        "from mixlab.corpora.reading.readers import read_documents\n"
        "from mixlab.errors import UnreadableData\n"
        "try:\n    print(sum(1 for _ in read_documents(sys.argv[1])))\n"
        "except (UnreadableData, MemoryError) as error:\n    print(type(error).__name__, error)\n"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / name)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stderr[-500:])
    assert done.stdout.startswith(
        ("ArrowMemoryError", "MemoryError", "TruncatedFile", "LimitExceeded", "MissingTextField")
    )
    assert time.monotonic() - began < 30


def test_one_word_without_an_end_does_not_take_the_day() -> None:
    """Training a tokenizer took the square of a word's length: base64 is one word."""
    began = time.monotonic()
    tokenizer = train_tokenizer({"x": ["ab" * 150_000, "plain words " * 50]}, vocabulary=300)
    assert time.monotonic() - began < 10
    assert tokenizer.decode(tokenizer.encode("plain words").ids) == "plain words"


# Bounds


@pytest.fixture
def settings(tmp_path: Path) -> WorkerSettings:
    return WorkerSettings(home=tmp_path / "home", data_roots=[tmp_path], read_memory_bytes=MEMORY)


@pytest.fixture
def ledger(settings: WorkerSettings) -> Any:
    opened = Ledger.open(settings.database_url.get_secret_value())
    yield opened
    opened.close()


def measured(ledger: Ledger, *paths: Path) -> Job:
    domains = {path.stem: {"paths": [str(path)], "text_field": "text"} for path in paths}
    corpus = ledger.add_corpus("c", {"domains": domains, "vocabulary": 300})
    return ledger.submit(JobKind.MEASURE_CORPUS, {"corpus_id": corpus.id}, queue=Queue.CPU)


def claimed(ledger: Ledger, tmp_path: Path) -> Job:
    job = measured(ledger, tmp_path / "a.jsonl")
    found = ledger.claim(job.id, "w:1", 60)
    assert found is not None
    return found


def test_memory_beyond_the_limit_is_the_files_fault(
    settings: WorkerSettings, ledger: Ledger, tmp_path: Path
) -> None:
    job, before = claimed(ledger, tmp_path), resource.getrlimit(resource.RLIMIT_DATA)

    def read() -> None:
        with bounded(job, tmp_path, settings, 1000) as note:
            note("/data/bomb.jsonl")
            bytearray(2 * 1024 * MIB)

    with pytest.raises(LimitExceeded, match=r"bomb\.jsonl.*MIXLAB_READ_MEMORY_BYTES"):
        read()
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert not (tmp_path / NOTE).exists()


def test_a_file_that_fills_the_disk_is_stopped(
    settings: WorkerSettings, ledger: Ledger, tmp_path: Path
) -> None:
    small = settings.model_copy(update={"read_file_bytes": 100_000})
    job = claimed(ledger, tmp_path)

    def read() -> None:
        with bounded(job, tmp_path, small, 1) as note:
            note("/data/a.jsonl")
            (tmp_path / "grows").write_bytes(bytes(200_000))

    with pytest.raises(LimitExceeded, match="MIXLAB_READ_FILE_BYTES"):
        read()


def test_other_errors_pass_through_the_bounds(
    settings: WorkerSettings, ledger: Ledger, tmp_path: Path
) -> None:
    with (
        pytest.raises(FileNotFoundError),
        bounded(claimed(ledger, tmp_path), tmp_path, settings, 1),
    ):
        (tmp_path / "none").read_bytes()


ENDINGS = [
    (signal.SIGABRT, True), (signal.SIGSEGV, True), (signal.SIGXCPU, True), (signal.SIGALRM, True),
    (signal.SIGKILL, False), (signal.SIGTERM, None), (signal.SIGHUP, None),
]  # fmt: skip


@pytest.mark.parametrize(("number", "certain"), ENDINGS)
def test_what_a_reader_did_to_itself_is_blamed_on_its_file(
    settings: WorkerSettings, ledger: Ledger, tmp_path: Path, number: signal.Signals,
    certain: bool | None,
) -> None:  # fmt: skip
    job = claimed(ledger, tmp_path)
    folder = settings.corpus_folder(str(job.payload["corpus_id"]))
    folder.mkdir(parents=True)
    with Note(folder, job) as note:
        note.write("/data/" + "x" * 300)
        note.write("/data/bomb.parquet")
        fault = fault_of(job, settings, -number)
        if certain is None:
            assert fault is None
            return
        assert fault is not None
        assert fault.certain is certain
        assert fault.error["type"] == "limit-exceeded"
        assert "/data/bomb.parquet" in fault.error["detail"]
        # Not of this attempt, not by a signal, or not of a reader.
        assert fault_of(job, settings, 1) is None
        assert fault_of(job, settings, None) is None
        (folder / NOTE).write_text(json.dumps({"job": job.id, "attempt": 7, "file": "x"}))
        assert fault_of(job, settings, -number) is None
        for broken in ("", "[]", "{", '{"job": 1}'):
            (folder / NOTE).write_text(broken)
            assert fault_of(job, settings, -number) is None
    assert fault_of(job, settings, -number) is None  # it was no longer reading


# Some seconds of work.
LONG = as_jsonl([f"{n} " + " ".join(map(str, range(n, n + 1500))) for n in range(3_000)])


@pytest.fixture
def environment(settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXLAB_HOME", str(settings.home))
    monkeypatch.setenv("MIXLAB_DATA_ROOTS", json.dumps([str(root) for root in settings.data_roots]))
    monkeypatch.setenv("MIXLAB_READ_MEMORY_BYTES", str(MEMORY))
    monkeypatch.setenv("MIXLAB_LEASE_SECONDS", "30")


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
class TestInItsOwnProcess:
    """A supervisor here, the runner as in the service."""

    def done(self, ledger: Ledger, settings: WorkerSettings, *paths: Path) -> Job:
        job = measured(ledger, *paths)
        supervise(job.id, ledger, settings, stopping=lambda: False)
        return ledger.job(job.id)

    def test_a_page_that_lies_about_its_size(
        self, settings: WorkerSettings, ledger: Ledger, tmp_path: Path
    ) -> None:
        (tmp_path / "page.parquet").write_bytes(lying_page(2**31 - 1))
        (tmp_path / "good.jsonl").write_text('{"text": "one two three four"}\n' * 50)
        job = self.done(ledger, settings, tmp_path / "good.jsonl", tmp_path / "page.parquet")
        assert job.state is JobState.FAILED
        assert job.attempt == 1  # no loop of crashes
        assert job.error is not None
        assert job.error["type"] in ("limit-exceeded", "truncated-file")
        assert "page.parquet" in job.error["detail"]

    def test_more_seconds_than_its_bytes_may_cost(
        self, settings: WorkerSettings, ledger: Ledger, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setenv("MIXLAB_READ_SECONDS", "0.1")
        monkeypatch.setenv("MIXLAB_READ_BYTES_PER_SECOND", "1e12")
        (tmp_path / "slow.jsonl").write_bytes(LONG)
        (tmp_path / "good.jsonl").write_text('{"text": "one two three four"}\n' * 50)
        job = self.done(ledger, settings, tmp_path / "slow.jsonl", tmp_path / "good.jsonl")
        assert (job.state, job.attempt) == (JobState.FAILED, 1)
        assert job.error is not None
        assert job.error["type"] == "limit-exceeded"
        assert str(tmp_path) in job.error["detail"]
        assert "MIXLAB_READ_SECONDS" in job.error["detail"]
        assert not (settings.home / "core").exists()

    def test_a_reader_that_is_killed_each_time_is_blamed_at_the_cap(
        self, settings: WorkerSettings, ledger: Ledger, tmp_path: Path
    ) -> None:
        (tmp_path / "big.jsonl").write_bytes(LONG)
        (tmp_path / "good.jsonl").write_text('{"text": "one two three four"}\n' * 50)
        job = measured(ledger, tmp_path / "big.jsonl", tmp_path / "good.jsonl")
        once = settings.model_copy(update={"max_failures": 1})
        note = settings.corpus_folder(str(job.payload["corpus_id"])) / NOTE

        def kill() -> bool:  # as the kernel does where memory runs out
            if note.exists() and "big" in note.read_text():
                told = subprocess.run(["pgrep", "-f", f"workers.runner {job.id}"],
                                      capture_output=True, text=True, check=False)  # fmt: skip
                for pid in told.stdout.split():
                    os.kill(int(pid), signal.SIGKILL)
            return False

        supervise(job.id, ledger, once, stopping=kill)
        ended = ledger.job(job.id)
        assert ended.state is JobState.FAILED
        assert ended.error is not None
        assert ended.error["type"] == "limit-exceeded"
        assert "big.jsonl" in ended.error["detail"]
        assert "memory runs out" in ended.error["detail"]

    def test_ordinary_text_is_read_within_the_default_bounds(
        self, settings: WorkerSettings, ledger: Ledger, tmp_path: Path
    ) -> None:
        text = as_jsonl([" ".join(map(str, range(300)))]).decode()
        (tmp_path / "a.jsonl").write_text(text + text.replace("1", "7"))
        pq.write_table(
            pa.table({"text": [f"row {n} " * 50 for n in range(500)]}), tmp_path / "b.parquet"
        )
        job = self.done(ledger, settings, tmp_path / "a.jsonl", tmp_path / "b.parquet")
        assert job.error is None or job.error["type"] == "domain-too-small"
        assert not (settings.corpus_folder(str(job.payload["corpus_id"])) / NOTE).exists()


def test_the_lying_page_is_one(tmp_path: Path) -> None:
    """Else the tests above would show nothing: it is small, and asks for two gigabytes."""
    (tmp_path / "a.parquet").write_bytes(lying_page(100))
    with pytest.raises(UnreadableData):
        list(read_documents(str(tmp_path / "a.parquet")))
    assert len(lying_page(2**31 - 1)) < 1000
