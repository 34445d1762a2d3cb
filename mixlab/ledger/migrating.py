"""Bringing a database to the schema of this version, with Alembic.

Many processes may start at once on a fresh database: the upgrade runs in one
transaction that first takes SQLite's write lock or a PostgreSQL advisory lock,
so one of them migrates and the rest find it done.

    MIXLAB_DATABASE_URL=postgresql://... mixlab ledger upgrade
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


def answering(connection: Connection) -> str | None:
    """The revision of a database that answers. Raises SQLAlchemy's error where none does."""
    connection.execute(text("SELECT 1"))
    return current(connection)


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


def revisions() -> list[str]:
    """The revisions that this version of mixlab knows, oldest first."""
    return sorted(path.stem.split("_")[0] for path in (FOLDER / "versions").glob("[0-9]*.py"))


def of(url: str) -> str | None:
    """The revision of a database. Raises SQLAlchemy's error where none answers."""
    engine = open_engine(url)
    try:
        with engine.connect() as connection:
            return answering(connection)
    finally:
        engine.dispose()


def downgrade(url: str, revision: str) -> None:
    """Go down to one of `revisions()`. Raises Conflict where the database is not above it."""
    found, known = of(url), revisions()
    if found not in known or known.index(found) <= known.index(revision):
        raise Conflict(f"The ledger is at revision {found}, which is not above {revision}.")
    migrate(url, f"-{known.index(found) - known.index(revision)}")


def migrate(url: str, revision: str) -> None:
    """Go up or down to a revision: "head" or "0002" up, "base" or "-1" (one step) down."""
    from alembic import command  # 0.1 s to load, and most openings need no migration
    from alembic.config import Config

    def go(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
        config.attributes["connection"] = connection
        down = revision == "base" or revision.startswith("-")
        (command.downgrade if down else command.upgrade)(config, revision)

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
