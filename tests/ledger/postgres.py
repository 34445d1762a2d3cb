"""A PostgreSQL cluster of the tests' own: a temporary folder, a Unix socket, no TCP."""

import glob
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import make_url

PLACES = ("/usr/lib/postgresql/*/bin", "/opt/homebrew/opt/postgresql*/bin", "/usr/pgsql-*/bin")


def binaries() -> Path | None:
    """The folder with initdb and pg_ctl; None where PostgreSQL isn't installed."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    there = [Path(folder) for place in PLACES for folder in sorted(glob.glob(place))]
    there = [folder for folder in there if (folder / "initdb").exists()]
    return there[-1] if there else None


@contextmanager
def cluster() -> Iterator[str]:
    """Run one; gives the URL of its administrator's database. PostgreSQL refuses to be root."""
    user = as_owner()
    # Not pytest's folder: its parents are closed to other users, and socket paths must be short.
    home = Path(tempfile.mkdtemp(prefix="mixlab-pg-"))
    if user is not None:
        shutil.chown(home, user)
    url = f"postgresql+psycopg://mixlab@/postgres?host={home}"
    try:
        _run(home, "initdb", "-U", "mixlab", "-A", "trust", "-E", "UTF8", "--no-sync")
        start(url)
        yield url
    finally:
        stop(url)
        shutil.rmtree(home)
        (home.parent / f"{home.name}.log").unlink()


def start(url: str) -> None:
    """Start the cluster of a URL, and wait until it answers."""
    home = _home(url)
    options = f"-k {home} -c listen_addresses= -c fsync=off -c max_connections=60"
    _run(home, "pg_ctl", "-w", "-o", options, "start")


def stop(url: str) -> None:
    """End it at once, as a crash does: nobody is told."""
    _run(_home(url), "pg_ctl", "-m", "immediate", "stop")


def _home(url: str) -> Path:
    return Path(str(make_url(url).query["host"]))


def _run(home: Path, program: str, *arguments: str) -> None:
    folder = binaries()
    assert folder is not None
    command = [str(folder / program), "-D", str(home / "data"), *arguments]
    with (home.parent / f"{home.name}.log").open("ab") as log:
        subprocess.run(command, check=True, user=as_owner(), stdout=log, stderr=log, cwd="/")


def as_owner() -> str | None:
    """Who runs the server: PostgreSQL refuses to be root."""
    if os.getuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"
