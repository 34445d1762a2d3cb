"""Bringing a database to the schema of this version, with Alembic.

Many processes may start at once on a fresh database: the upgrade runs in one
transaction that first takes SQLite's write lock or a PostgreSQL advisory lock,
so one of them migrates and the rest find it done.

    MIXLAB_DATABASE_URL=postgresql://... python -m mixlab.ledger
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from mixlab.errors import Conflict
from mixlab.ledger.engine import WRITES, open_engine

FOLDER = Path(__file__).parent / "migrations"
_ADVISORY_LOCK = 0x6D69786C6162  # "mixlab"


@cache
def head() -> str:
    """The newest revision that this version of mixlab knows."""
    return max(path.stem.split("_")[0] for path in (FOLDER / "versions").glob("[0-9]*.py"))


def current(connection: Connection) -> str | None:
    """The revision of the database; None where no table stands yet."""
    try:
        found: str | None = connection.execute(
            text("SELECT version_num FROM alembic_version")
        ).scalar()
    except SQLAlchemyError:
        # The table is missing; PostgreSQL refuses more statements until a rollback.
        connection.rollback()
        return None
    return found


def upgrade(url: str) -> None:
    """Bring the database to head; nothing happens where it is there already.

    Raises Conflict where a newer mixlab has already moved it beyond.
    """
    engine = open_engine(url)
    try:
        with engine.connect() as connection:
            found = current(connection)
    finally:
        engine.dispose()
    if found == head():
        return
    if found is not None and found > head():
        raise Conflict(
            f"The ledger is at revision {found}, newer than {head()}, the newest that this "
            "mixlab knows; update mixlab, or give it a database of its own."
        )
    migrate(url, "head")


def migrate(url: str, revision: str) -> None:
    """Go up or down to a revision, such as "head" or "base"."""
    from alembic import command  # 0.1 s to load, and most openings need no migration
    from alembic.config import Config

    def go(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
        config.attributes["connection"] = connection
        (command.downgrade if revision == "base" else command.upgrade)(config, revision)

    locked(url, go)


def locked(url: str, work: Callable[[Connection], None]) -> None:
    """Do something in one transaction that no other migration overlaps."""
    engine = open_engine(url, foreign_keys=False).execution_options(**WRITES)
    try:
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
            work(connection)
    finally:
        engine.dispose()
