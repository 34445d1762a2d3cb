"""The guide's commands copy a PostgreSQL ledger that is in use, and put it back, all or nothing.

SQLite's way is tests/cli/test_ledger_command.py.
"""

import re
import shlex
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from mixlab.ledger import Ledger
from mixlab.ledger.records import JobKind, Queue, RunRole, Scope
from tests.ledger import postgres

GUIDE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


def command(program: str) -> list[str]:
    """The guide's command with that program, without the container that it runs in."""
    (found,) = re.findall(rf"exec -T postgres ({program} [^<>\n]+)", GUIDE)
    return shlex.split(found)


def run(words: list[str], url: str, **streams: object) -> None:
    place = make_url(url)
    folder = postgres.binaries()
    assert folder is not None
    names = {"mixlab": place.database}  # the tests' database has another name
    program, *rest = words
    arguments = [
        names.get(word, word) if rest[n - 1] != "--username" else word
        for n, word in enumerate(rest)
    ]
    subprocess.run(
        [str(folder / program), *arguments],
        check=True,
        env={"PGHOST": str(place.query["host"]), "PATH": "/usr/bin:/bin"},
        **streams,  # type: ignore[call-overload]
    )


@pytest.fixture
def database(postgres_url: str) -> str:
    """An empty database of a cluster that has the tools beside it."""
    folder = postgres.binaries()
    if folder is None or not all((folder / name).exists() for name in ("pg_dump", "pg_restore")):
        pytest.skip("PostgreSQL's client programs are not on this machine")
    with create_engine(postgres_url, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("DROP DATABASE IF EXISTS backed_up WITH (FORCE)"))
        connection.execute(text("CREATE DATABASE backed_up"))
    return postgres_url.replace("/postgres?", "/backed_up?")


def _filled(ledger: Ledger) -> tuple[str, str, str]:
    corpus = ledger.add_corpus("c", {"domains": {"a": {}}})
    key, token = ledger.keys.create("ada", (Scope.READ,))
    job = ledger.of(key.id).submit(JobKind.TRAIN, {"shares": {"a": 0.1}}, queue=Queue.GPU)
    claimed = ledger.claim(job.id, "a:1", 30)
    assert claimed is not None
    run_ = ledger.add_run(job.id, corpus.id, RunRole.PROXY, {"a": 1.0}, {"x": 1}, 0, "natural")
    seen = {"step": 1, "tokens": 2**40, "losses_nats": {"a": 3.0000000000000004}}
    ledger.record_observation(run_.id, seen)
    return job.id, run_.id, token


def test_a_ledger_in_use_is_copied_and_put_back(database: str, tmp_path: Path) -> None:
    ledger, stop, dump = Ledger.open(database), threading.Event(), tmp_path / "ledger.dump"
    job_id, run_id, token = _filled(ledger)
    before = (ledger.job(job_id), ledger.run(run_id), ledger.events(job_id))

    def write() -> None:
        while not stop.is_set():
            ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with dump.open("wb") as output:
            run(command("pg_dump"), database, stdout=output)
    finally:
        stop.set()
        writer.join()
    later = ledger.submit(JobKind.TRAIN, {"n": "after the copy"}, queue=Queue.GPU)
    ledger.close()
    with dump.open("rb") as given:
        run(command("pg_restore"), database, stdin=given)
    restored = Ledger.open(database, migrate=False)
    restored.check()
    assert (restored.job(job_id), restored.run(run_id), restored.events(job_id)) == before
    assert restored.keys.check(token) is not None
    assert later.id not in {job.id for job in restored.jobs(limit=10_000)}
    assert restored.submit(JobKind.TRAIN, {}, queue=Queue.GPU).owner is None
    restored.close()


def test_a_copy_that_is_cut_short_changes_nothing(database: str, tmp_path: Path) -> None:
    ledger, dump = Ledger.open(database), tmp_path / "ledger.dump"
    job_id, _, _ = _filled(ledger)
    with dump.open("wb") as output:
        run(command("pg_dump"), database, stdout=output)
    later = ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)
    ledger.close()
    whole = dump.read_bytes()
    dump.write_bytes(whole[: len(whole) * 3 // 4])
    with dump.open("rb") as given, pytest.raises(subprocess.CalledProcessError):
        run(command("pg_restore"), database, stdin=given, stderr=subprocess.DEVNULL)
    untouched = Ledger.open(database, migrate=False)
    assert untouched.job(later.id) == later
    assert untouched.job(job_id).id == job_id
    untouched.close()


def test_the_guide_copies_files_as_the_home_folder_has_them(tmp_path: Path) -> None:
    (made,) = re.findall(r"api (tar [^<>\n]+) > home.tar", GUIDE)
    (put_back,) = re.findall(r"api (tar [^<>\n]+) < home.tar", GUIDE)
    home, copy = tmp_path / "home", tmp_path / "copy"
    for name in ("corpora/corpus_1/shard.npy", "runs/run_1/weights", "logs/x", "gpus/y"):
        (home / name).parent.mkdir(parents=True)
        (home / name).write_text(name)
    copy.mkdir()
    with (tmp_path / "home.tar").open("wb") as output:
        subprocess.run(shlex.split(made.replace("/data", str(home))), check=True, stdout=output)
    with (tmp_path / "home.tar").open("rb") as given:
        subprocess.run(shlex.split(put_back.replace("/data", str(copy))), check=True, stdin=given)
    shutil.rmtree(home / "logs")
    shutil.rmtree(home / "gpus")
    told = {p.relative_to(home): p.read_text() for p in home.rglob("*") if p.is_file()}
    assert {p.relative_to(copy): p.read_text() for p in copy.rglob("*") if p.is_file()} == told
