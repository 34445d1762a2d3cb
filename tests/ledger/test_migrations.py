"""The migrations make the schema that the code reads, both ways, on both databases."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, inspect, text

from mixlab.errors import Conflict, NotReady
from mixlab.ledger import Ledger, migrating
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


def test_runs_of_the_first_schema_are_kept(url: str) -> None:
    migrating.migrate(url, "0001")

    def fill(db: Connection) -> None:
        now = "2026-01-01 00:00:00"
        db.execute(text(f"INSERT INTO corpora VALUES ('c', 'c', '{{}}', NULL, NULL, '{now}')"))
        columns = "id, kind, queue, state, payload, fraction, attempt, failures, version"
        values = "'j', 'train', 'gpu', 'queued', '{}', 0, 0, 0, 1"
        db.execute(text(f"INSERT INTO jobs ({columns}, created_at) VALUES ({values}, '{now}')"))
        columns = "id, job_id, corpus_id, role, mixture, recipe, seed, label, consumed, created_at"
        values = f"""'r', 'j', 'c', 'proxy', '{{"a": 1.0}}', '{{}}', 0, 'n', '[]', '{now}'"""
        db.execute(text(f"INSERT INTO runs ({columns}) VALUES ({values})"))
        db.execute(text("""INSERT INTO observations VALUES ('r', 7, 70, '{"a": 2.0}')"""))

    migrating.locked(url, fill)
    ledger = Ledger.open(url)
    run = ledger.run("r")
    assert (run.job_id, run.mixture) == ("j", {"a": 1.0})
    assert [seen["step"] for seen in run.observations] == [7]
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
