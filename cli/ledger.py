"""`mixlab ledger`: the database's schema, and a copy of a SQLite ledger that is in use.

A PostgreSQL ledger is copied with PostgreSQL's own tools; docs/operations.md has the commands.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from cli.errors import CommandFailed
from mixlab.ledger import migrating
from workers.contract import SharedSettings

app = typer.Typer(help="The ledger's schema, and copies of it.", no_args_is_help=True)


@app.command()
def revision() -> None:
    """Print the revision of the database, and the newest that this version knows."""
    url = _url()
    try:
        found = migrating.of(url)
    except SQLAlchemyError as problem:
        _unreachable(problem)
    typer.echo(f"database: {found or 'empty'}\nthis version: {migrating.head()}")


@app.command()
def upgrade() -> None:
    """Bring the database to this version's schema; nothing happens where it is there already."""
    url = _url()
    try:
        migrating.upgrade(url)
    except SQLAlchemyError as problem:
        _unreachable(problem)
    typer.echo(f"the ledger is at revision {migrating.head()}")


@app.command()
def downgrade(
    to: Annotated[str, typer.Argument(metavar="REVISION", help="Such as 0002.")],
    yes: Annotated[
        bool, typer.Option("--yes", help="What the older schema has no place for is lost: go on.")
    ] = False,
) -> None:
    """Bring the database to an older version's schema, while nothing else uses it."""
    if to not in migrating.revisions():
        known = ", ".join(migrating.revisions())
        raise CommandFailed(f"There is no revision {to!r}; there are {known}.")
    if not yes:
        raise CommandFailed(
            "What the older schema has no place for is lost. Stop the service, make a backup, "
            f"then: mixlab ledger downgrade {to} --yes"
        )
    url = _url()
    try:
        migrating.downgrade(url, to)
    except SQLAlchemyError as problem:
        _unreachable(problem)
    typer.echo(f"the ledger is at revision {to}; start the version that it belongs to")


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Must not be there yet.")],
) -> None:
    """Copy a SQLite ledger, whoever writes to it meanwhile."""
    source = make_url(_url())
    if source.get_backend_name() != "sqlite":
        raise CommandFailed(
            "This ledger is in PostgreSQL; copy it with pg_dump (docs/operations.md, 'Back-up')."
        )
    if not source.database or not Path(source.database).is_file():
        raise CommandFailed(f"There is no ledger at {source.database}; MIXLAB_HOME says where.")
    if file.exists():
        raise CommandFailed(f"{file} is there already; name a new file.")
    _copy(Path(source.database), file)
    # After a crash SQLite would write what stands in the other two into the copy.
    typer.echo(
        f"copied to {file}; to restore it, stop mixlab, remove {source.database}-wal and "
        f"{source.database}-shm, and put it in the place of {source.database}"
    )


def _copy(source: Path, file: Path) -> None:
    """A whole copy or none: written aside, then renamed."""
    aside = file.with_name(f".{file.name}.part")
    aside.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(source)) as ours, closing(sqlite3.connect(aside)) as copy:
            ours.backup(copy)
            # One file, without the two beside it that a write-ahead log needs.
            copy.execute("PRAGMA journal_mode=DELETE")
        os.replace(aside, file)
    except sqlite3.Error as problem:
        raise CommandFailed(f"{source} can't be copied to {file}: {problem}.") from None
    finally:
        aside.unlink(missing_ok=True)


def _url() -> str:
    try:
        return SharedSettings().database_url.get_secret_value()
    except ValidationError as problem:
        told = "; ".join(str(each["msg"]) for each in problem.errors())
        raise CommandFailed(f"The environment's MIXLAB_* settings can't be used: {told}") from None


def _unreachable(problem: SQLAlchemyError) -> NoReturn:
    # Only the class: the text of some drivers holds the URL and its password.
    raise CommandFailed(
        f"The ledger can't be reached ({type(problem).__name__}); MIXLAB_DATABASE_URL, or "
        "MIXLAB_HOME for a SQLite file, says where it is."
    ) from None
