"""`mixlab ledger`: revisions up and down, and copies of a ledger that is in use."""

import shutil
import sqlite3
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.errors import CommandFailed
from cli.main import app
from mixlab.ledger import Ledger, migrating
from mixlab.ledger.records import JobKind, Queue


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("MIXLAB_HOME", str(folder))
    monkeypatch.delenv("MIXLAB_DATABASE_URL", raising=False)
    return folder


def mixlab(*words: str) -> str:
    done = CliRunner().invoke(app, ["ledger", *words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_a_ledger_goes_up_and_down(home: Path) -> None:
    assert "empty" in mixlab("revision")
    mixlab("upgrade")
    assert f"database: {migrating.head()}" in mixlab("revision")
    with pytest.raises(CommandFailed, match="--yes"):
        mixlab("downgrade", "0001")
    mixlab("downgrade", "0001", "--yes")
    assert "database: 0001" in mixlab("revision")
    mixlab("upgrade")
    Ledger.open(f"sqlite:///{home / 'ledger.sqlite'}", migrate=False).check()


def test_a_revision_that_is_none_or_not_below_is_refused() -> None:
    mixlab("upgrade")
    with pytest.raises(CommandFailed, match=r"no revision '0009'; there are 0001, 0002"):
        mixlab("downgrade", "0009", "--yes")
    with pytest.raises(Exception, match="not above"):
        mixlab("downgrade", migrating.head(), "--yes")


def test_a_copy_of_a_ledger_in_use_is_whole_and_can_take_its_place(home: Path) -> None:
    url = f"sqlite:///{home / 'ledger.sqlite'}"
    ledger, stop = Ledger.open(url), threading.Event()
    first = ledger.submit(JobKind.TRAIN, {"n": 0}, queue=Queue.GPU)

    def write() -> None:
        while not stop.is_set():
            ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        mixlab("backup", str(home / "copy.sqlite"))
    finally:
        stop.set()
        writer.join()
    ledger.submit(JobKind.TRAIN, {"n": "after the copy"}, queue=Queue.GPU)
    ledger.close()
    assert [path.name for path in home.iterdir() if "copy" in path.name] == ["copy.sqlite"]
    for path in home.glob("ledger.sqlite*"):
        path.unlink()
    shutil.copy(home / "copy.sqlite", home / "ledger.sqlite")
    restored = Ledger.open(url)
    restored.check()
    assert restored.job(first.id) == first
    assert len(restored.events(first.id)) == 1
    restored.submit(JobKind.TRAIN, {}, queue=Queue.GPU)
    restored.close()


def test_a_copy_replaces_nothing_and_leaves_no_half(home: Path, tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="There is no ledger"):
        mixlab("backup", str(tmp_path / "copy"))
    mixlab("upgrade")
    (tmp_path / "there").write_text("mine")
    with pytest.raises(CommandFailed, match="is there already"):
        mixlab("backup", str(tmp_path / "there"))
    with pytest.raises(CommandFailed, match="can't be copied"):
        mixlab("backup", str(tmp_path / "no" / "such" / "folder"))
    (home / "ledger.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(CommandFailed, match="can't be copied"):
        mixlab("backup", str(tmp_path / "copy"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "there"]


def test_a_ledger_in_postgresql_is_sent_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXLAB_DATABASE_URL", "postgresql://mixlab:hunter2@127.0.0.1:1/mixlab")
    with pytest.raises(CommandFailed, match="pg_dump"):
        mixlab("backup", "copy")
    for word in ("revision", "upgrade"):
        with pytest.raises(CommandFailed, match="can't be reached") as failure:
            mixlab(word)
        assert "hunter2" not in str(failure.value)


def test_a_wrong_setting_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXLAB_DATABASE_URL", "postgresql://mixlab:hunter2@[")
    with pytest.raises(CommandFailed, match="MIXLAB_DATABASE_URL") as failure:
        mixlab("upgrade")
    assert "hunter2" not in str(failure.value)


def test_the_copy_needs_no_files_beside_it(home: Path, tmp_path: Path) -> None:
    mixlab("upgrade")
    mixlab("backup", str(tmp_path / "copy.sqlite"))
    mode = sqlite3.connect(tmp_path / "copy.sqlite").execute("PRAGMA journal_mode").fetchone()
    assert mode == ("delete",)


def test_a_copy_is_restored_over_a_crashed_ledger_as_the_command_says(
    home: Path, tmp_path: Path
) -> None:
    """What the crash left beside the ledger would be written into the copy."""
    place, crashed = home / "ledger.sqlite", tmp_path / "crashed"
    ledger = Ledger.open(f"sqlite:///{place}")
    told = mixlab("backup", str(tmp_path / "copy"))
    ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)
    shutil.copytree(home, crashed)  # as kill -9 leaves it
    ledger.close()
    shutil.rmtree(home)
    crashed.rename(home)
    beside = [Path(f"{place}-wal"), Path(f"{place}-shm")]
    for path in beside:
        assert str(path) in told
        assert path.exists()
        path.unlink()
    shutil.copy(tmp_path / "copy", place)
    restored = Ledger.open(f"sqlite:///{place}")
    assert restored.jobs() == []
    restored.close()
