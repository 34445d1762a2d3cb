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
    folder = binaries()
    assert folder is not None
    user = _user()
    # Not pytest's folder: its parents are closed to other users, and socket paths must be short.
    home = Path(tempfile.mkdtemp(prefix="mixlab-pg-"))
    if user is not None:
        shutil.chown(home, user)

    def run(program: str, *arguments: str) -> None:
        command = [str(folder / program), "-D", str(home / "data"), *arguments]
        log = (home.parent / f"{home.name}.log").open("ab")
        subprocess.run(command, check=True, user=user, stdout=log, stderr=log, cwd="/")

    options = f"-k {home} -c listen_addresses= -c fsync=off -c max_connections=60"
    try:
        run("initdb", "-U", "mixlab", "-A", "trust", "-E", "UTF8", "--no-sync")
        run("pg_ctl", "-w", "-o", options, "start")
        yield f"postgresql+psycopg://mixlab@/postgres?host={home}"
    finally:
        run("pg_ctl", "-m", "immediate", "stop")
        shutil.rmtree(home)
        (home.parent / f"{home.name}.log").unlink()


def _user() -> str | None:
    if os.getuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"
