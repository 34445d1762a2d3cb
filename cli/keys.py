"""`mixlab keys`: make, list, rotate and revoke the API keys of a ledger.

They work on the ledger itself (MIXLAB_DATABASE_URL, or SQLite in the home folder), since the
first key must be made before anybody is let in. A token is printed once, alone on standard
output, so that it can be piped into a file; everything else goes to standard error.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from cli.errors import CommandFailed
from mixlab.ledger import Ledger
from mixlab.ledger.records import ApiKey, Scope
from workers.contract import SharedSettings

LONGEST_NAME = 200
MOST_JOBS = 2**31 - 1  # what the ledger's column of them holds
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

app = typer.Typer(help="API keys: make, list, rotate, revoke.", no_args_is_help=True)

Home = Annotated[
    Path, typer.Option(envvar="MIXLAB_HOME", help="Where the ledger is without a database URL.")
]
KeyId = Annotated[str, typer.Argument(help="Its id, as `mixlab keys list` shows it.")]
DEFAULT_HOME = Path(".mixlab")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose it is, or what for.")],
    scope: Annotated[
        list[Scope] | None,
        typer.Option(help="read, write or admin; may be repeated. Without it: read and write."),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="When it ends, such as 90d or 12h. Without it: never.")
    ] = None,
    max_active_jobs: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_JOBS, help="Unfinished jobs that it may have at once."),
    ] = None,
    home: Home = DEFAULT_HOME,
) -> None:
    """Make an API key, and print its token: the only time that it is shown."""
    if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
        raise CommandFailed(f"A key's name is 1 to {LONGEST_NAME} printable characters.")
    if expires is not None and not duration(expires):
        raise CommandFailed(f"A key that ends after {expires} is of no use; give it some time.")
    scopes = tuple(dict.fromkeys(scope or (Scope.READ, Scope.WRITE)))
    ends = None if expires is None else datetime.now(UTC) + duration(expires)
    with _ledger(home, may_make=True) as ledger:
        key, token = ledger.keys.create(
            name, scopes, expires_at=ends, max_active_jobs=max_active_jobs
        )
    _print_token(token, f"{key.id} {name}: {_scopes(key)}, {_end(key)}")


@app.command("list")
def list_keys(
    home: Home = DEFAULT_HOME,
    as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
) -> None:
    """Every key that was ever made, without its secret."""
    with _ledger(home) as ledger:
        keys = ledger.keys.all()
    if as_json:
        typer.echo(json.dumps([asdict(key) for key in keys], indent=2, default=str))
        return
    table = Table(box=box.SIMPLE)
    table.add_column("id", no_wrap=True)  # whole, since `rotate` and `revoke` take it
    for name in ("name", "scopes", "jobs", "ends", "last used"):
        table.add_column(name)
    for key in keys:
        jobs = "" if key.max_active_jobs is None else str(key.max_active_jobs)
        # As Text, since a name may hold what rich takes for markup.
        cells = (key.id, key.name, _scopes(key), jobs, _end(key), _time(key.last_used_at))
        table.add_row(*map(Text, cells))
    Console().print(table)


@app.command()
def rotate(
    key_id: KeyId,
    grace: Annotated[
        str, typer.Option(help="How long the old token still opens, such as 1d.")
    ] = "0s",
    home: Home = DEFAULT_HOME,
) -> None:
    """Give a key a new secret, and print the new token."""
    with _ledger(home) as ledger:
        key, token = ledger.keys.rotate(_id_in(key_id), grace=duration(grace))
    _print_token(token, f"{key.id} {key.name}: the old token opens for {grace} more")


@app.command()
def revoke(key_id: KeyId, home: Home = DEFAULT_HOME) -> None:
    """End a key at once; what it asked for stays."""
    with _ledger(home) as ledger:
        key = ledger.keys.revoke(_id_in(key_id))
    typer.echo(f"{key.id} {key.name}: revoked at {_time(key.revoked_at)}", err=True)


def duration(text: str) -> timedelta:
    """A duration such as 90d, 12h, 30m, 2w or 45s."""
    match = re.fullmatch(r"(\d{1,4})([smhdw])", text.strip().lower())
    if match is None:
        raise CommandFailed(f"{text!r} is no duration; write a number and s, m, h, d or w: 90d.")
    return timedelta(seconds=int(match[1]) * UNITS[match[2]])


def _id_in(given: str) -> str:
    """The key's id; of a token that was given instead, without the secret in it."""
    match = re.match(r"mlk_([0-9a-f]+)_", given)
    return given if match is None else f"key_{match[1]}"


@contextmanager
def _ledger(home: Path, *, may_make: bool = False) -> Iterator[Ledger]:
    """The ledger of the settings, closed afterwards. Raises CommandFailed where it is away.

    Only a first key makes a ledger, and says so: in a wrong folder its token would open nothing.
    """
    try:
        url = SharedSettings(home=home).database_url.get_secret_value()
        missing = _missing_file(url)
        if missing is not None and not may_make:
            raise CommandFailed(f"There is no ledger at {missing}; --home says where it is.")
        ledger = Ledger.open(url)
        if missing is not None:
            typer.echo(f"made a new ledger: {missing}", err=True)
    except ValidationError as problem:
        told = "; ".join(str(each["msg"]) for each in problem.errors(include_input=False))
        raise CommandFailed(f"The settings can't be used: {told}") from None
    except SQLAlchemyError as problem:
        # Only the class: the text of some drivers holds the URL and its password.
        raise CommandFailed(f"The ledger can't be opened ({type(problem).__name__}).") from None
    try:
        yield ledger
    finally:
        ledger.close()


def _missing_file(url: str) -> str | None:
    """Where a SQLite ledger should be and isn't."""
    place = make_url(url)
    if place.get_backend_name() != "sqlite" or not place.database:
        return None
    return None if Path(place.database).exists() else place.database


def _print_token(token: str, about: str) -> None:
    typer.echo(about, err=True)
    typer.echo("Keep the token now; it is not shown again.", err=True)
    typer.echo(token)


def _scopes(key: ApiKey) -> str:
    return " ".join(scope.value for scope in key.scopes)


def _end(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return f"revoked {_time(key.revoked_at)}"
    return "never ends" if key.expires_at is None else f"ends {_time(key.expires_at)}"


def _time(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M}Z"
