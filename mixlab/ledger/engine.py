"""Connections to the ledger's database: SQLite with write-ahead log, or PostgreSQL.

SQLite: WAL lets readers go on while one writes. Write transactions begin with
BEGIN IMMEDIATE, because a transaction that reads first and writes later gets
"database is locked" at once, whatever the timeout, when another wrote in
between. WAL needs shared memory, so the file must lie on a local disk.
PostgreSQL: READ COMMITTED, and rows are locked parent first (transitions.py).
A connection that goes dead without a word is given up within seconds, and a
process that is halted within a transaction loses its locks soon: else a job's
heartbeat would wait longer than its lease lasts.
Source for the SQLite values: PrefectHQ/prefect, database/configurations.py.
"""

import json
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, Insert, Table, create_engine, event, make_url
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects import sqlite as sqlite_dialect

BUSY_TIMEOUT_MS = 60_000
WRITES = {"mixlab_writes": True}
# libpq's own answers to a host that has gone: minutes to hours. What a URL says comes first.
IMPATIENT = {
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
IDLE_IN_TRANSACTION_MS = 10_000


def open_engine(url: str, *, foreign_keys: bool = True) -> Engine:
    """An engine for the URL; connects to nothing yet, but makes a SQLite file's folder.

    `foreign_keys=False` is for migrations: SQLite's batch mode drops and renames tables.
    """
    target = make_url(url)
    options: dict[str, Any] = {"json_serializer": to_json}
    if target.get_backend_name() == "sqlite":
        if not target.database or target.database == ":memory:":
            raise ValueError("The ledger needs a database file: several processes share it.")
        Path(target.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(target, **options)
        _tame_sqlite(engine, foreign_keys)
        return engine
    options |= {"pool_pre_ping": True, "pool_use_lifo": True, "isolation_level": "READ COMMITTED"}
    engine = create_engine(_impatient(_with_psycopg(target)), **options)
    event.listen(engine, "connect", _free_locks_of_the_halted)
    return engine


def _with_psycopg(url: URL) -> URL:
    # SQLAlchemy 2.0 would look for psycopg2 behind a bare postgresql://.
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def _impatient(url: URL) -> URL:
    return url.update_query_dict({k: v for k, v in IMPATIENT.items() if k not in url.query})


def _free_locks_of_the_halted(connection: Any, _record: object) -> None:
    # By a statement, since a connection pooler in front may refuse it as a start-up option.
    with connection.cursor() as cursor:
        cursor.execute(f"SET idle_in_transaction_session_timeout = {IDLE_IN_TRANSACTION_MS}")
    connection.commit()


def _tame_sqlite(engine: Engine, foreign_keys: bool) -> None:
    # FULL, since in a power cut NORMAL loses the last commits, and they were acknowledged.
    pragmas = ("synchronous=FULL", f"foreign_keys={'ON' if foreign_keys else 'OFF'}")

    def on_connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver shall begin no transactions by itself
        # First, since all that follows may wait for a lock.
        connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        _write_ahead(connection)
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    def on_begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("mixlab_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Set WAL. Of several that switch a fresh file at once, SQLite refuses some without waiting.

    It does so to avoid a deadlock, whatever the busy timeout is, so the wait is ours.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as problem:
            if "locked" not in str(problem) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def to_json(value: Any) -> str:
    """Strict JSON: PostgreSQL refuses NaN, and no reader should meet it. Raises ValueError."""
    return json.dumps(value, allow_nan=False, default=_plain)


def _plain(value: object) -> dict[Any, Any]:
    if isinstance(value, Mapping):  # such as the read-only views that records hand out
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON: {value!r}")


def insert_unless_there(connection: Connection, table: Table) -> Insert:
    """An INSERT that leaves an existing row alone; RETURNING is empty then."""
    if connection.dialect.name == "sqlite":
        return sqlite_dialect.insert(table).on_conflict_do_nothing()
    return postgresql.insert(table).on_conflict_do_nothing()
