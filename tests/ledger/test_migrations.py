"""The migrations make the schema that the code reads, both ways, on both databases."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, inspect, text

from mixlab.errors import Conflict, NotReady
from mixlab.ledger import Ledger, migrating
from mixlab.ledger.records import JobKind, JobState, Queue
from mixlab.ledger.schema import metadata


def differences(url: str) -> list[object]:
    found: list[object] = []

    def compare(connection: Connection) -> None:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        found.extend(compare_metadata(context, metadata))

    migrating.locked(url, compare)
    return found


def tables(url: str) -> set[str]:
    engine = create_engine(url)
    names = set(inspect(engine).get_table_names())
    engine.dispose()
    return names


def test_up_down_and_up_again(url: str) -> None:
    for _ in range(2):
        migrating.migrate(url, "head")
        assert tables(url) == set(metadata.tables) | {"alembic_version"}
        migrating.migrate(url, "base")
        assert tables(url) == {"alembic_version"}


NOW = "2026-01-01 00:00:00"


def add_a_run(db: Connection) -> None:
    """A corpus, a job, a run and an observation, as the first schema has them."""
    db.execute(text(f"INSERT INTO corpora VALUES ('c', 'c', '{{}}', NULL, NULL, '{NOW}')"))
    columns = "id, kind, queue, state, payload, fraction, attempt, failures, version"
    values = "'j', 'train', 'gpu', 'queued', '{}', 0, 2, 1, 7"
    db.execute(text(f"INSERT INTO jobs ({columns}, created_at) VALUES ({values}, '{NOW}')"))
    columns = "id, job_id, corpus_id, role, mixture, recipe, seed, label, consumed, created_at"
    values = f"""'r', 'j', 'c', 'proxy', '{{"a": 1.0}}', '{{}}', 0, 'n', '[]', '{NOW}'"""
    db.execute(text(f"INSERT INTO runs ({columns}) VALUES ({values})"))
    db.execute(text("""INSERT INTO observations VALUES ('r', 7, 70, '{"a": 2.0}')"""))


@pytest.mark.parametrize("revision", ["0001", "0002"])
def test_what_an_older_schema_held_is_kept(url: str, revision: str) -> None:
    migrating.migrate(url, revision)
    migrating.locked(url, add_a_run)
    ledger = Ledger.open(url)
    run = ledger.run("r")
    assert (run.job_id, run.mixture) == ("j", {"a": 1.0})
    assert [seen["step"] for seen in run.observations] == [7]
    job = ledger.job("j")
    assert (job.state, job.attempt, job.version, job.priority) == (JobState.QUEUED, 2, 7, 0)
    assert (job.owner, ledger.corpus("c").owner) == (None, None)
    (event,) = ledger.events("j")
    assert (event.seq, event.event, event.data) == (7, "queued", {})
    claimed = ledger.claim("j", "w", 30)
    assert claimed is not None
    assert claimed.attempt == 3
    ledger.close()


def test_one_step_down_keeps_the_jobs(url: str) -> None:
    ledger = Ledger.open(url)
    paused, plain = (ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU) for _ in range(2))
    ledger.mark_sent(paused.id)
    ledger.request_pause(paused.id)
    ledger.close()
    migrating.migrate(url, "-1")
    rows: list[tuple[str, str]] = []
    query = text("SELECT id, state FROM jobs ORDER BY id")
    migrating.locked(url, lambda db: rows.extend(tuple(row) for row in db.execute(query)))
    assert rows == [(paused.id, "queued"), (plain.id, "queued")]
    ledger = Ledger.open(url)
    assert [job.id for job in ledger.unsent()] == [paused.id, plain.id]
    ledger.close()


def test_nothing_is_left_to_migrate(url: str) -> None:
    migrating.upgrade(url)
    assert differences(url) == []


def test_many_may_open_a_fresh_database_at_once(url: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        ledgers = list(pool.map(lambda _: Ledger.open(url), range(6)))
    for ledger in ledgers:
        ledger.check()
        ledger.close()


def test_check_tells_an_old_schema(url: str) -> None:
    ledger = Ledger.open(url, migrate=False)
    with pytest.raises(NotReady, match="None"):
        ledger.check()
    migrating.upgrade(url)
    ledger.check()
    ledger.close()


def test_a_newer_ledger_is_left_alone(url: str) -> None:
    migrating.upgrade(url)
    migrating.locked(url, lambda db: db.execute(text("UPDATE alembic_version SET version_num=9")))
    with pytest.raises(Conflict, match="newer than"):
        Ledger.open(url)
