"""The ordinary package clients, behind a cache of verified packages.

    pip download --no-deps --only-binary=:all: NAME==VERSION     (wheels for any platform)
    apt-get download NAME[=VERSION]                              (needs no root)
    npm pack NAME@VERSION

Each client keeps its own configuration: mirrors, proxies and certificates are
honoured (PIP_*, apt.conf, .npmrc). A package is downloaded into a folder of
its own, verified, and only then renamed to its place, so that what stands in
the cache is whole, and an interrupted fetch goes on with what is missing.

Limits: a half-downloaded package starts anew. POSIX (the lock is flock).
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mixlab.corpora.catalogue.manifest import Package
from mixlab.errors import ChecksumMismatch, FetchFailed, MissingClient

Progress = Callable[[float], None]
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class CachedPackage:
    """A verified file of the cache; `downloaded_bytes` is 0 where it was there already."""

    package: Package
    file: Path
    sha256: str
    downloaded_bytes: int

    @property
    def version(self) -> str:
        """The pinned version, or the one that a Debian file name carries."""
        if self.package.version is not None:
            return self.package.version
        return self.file.stem.split("_")[1].replace("%3a", ":")


@contextlib.contextmanager
def locked(cache: Path) -> Iterator[None]:
    """One fetch at a time per cache; a second one waits. Leftovers of a killed one go."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in cache.glob(".part-*"):
            shutil.rmtree(leftover)
        yield


def obtain(package: Package, cache: Path, *, progress: Progress | None = None) -> CachedPackage:
    """The package's file from the cache, or downloaded into it and verified.

    Raises MissingClient, ChecksumMismatch, or FetchFailed with the client's words.
    """
    home = cache / _folder_name(package)
    if (found := _in_cache(package, home)) is not None:
        return found
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=cache))
    try:
        file = _download(package, part, progress or _ignore)
        sha256 = _verified(package, file)
        (file.parent / "SHA256").write_text(sha256)
        shutil.rmtree(home, ignore_errors=True)
        file.parent.rename(home)
        return CachedPackage(package, home / file.name, sha256, (home / file.name).stat().st_size)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def sha256_of(file: Path) -> str:
    """The file's sha256 in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _folder_name(package: Package) -> str:
    name = package.name.strip("@").replace("/", "-")
    return f"{package.client}-{name}-{package.version or 'current'}"


def _in_cache(package: Package, home: Path) -> CachedPackage | None:
    """The cached file if it still is what was verified; a damaged one is fetched again."""
    record = home / "SHA256"
    files = [file for file in home.glob("*") if file != record]
    if not record.is_file() or len(files) != 1:
        return None
    expected = package.sha256 or record.read_text()
    sha256 = sha256_of(files[0])
    return CachedPackage(package, files[0], sha256, 0) if sha256 == expected else None


def _verified(package: Package, file: Path) -> str:
    sha256 = sha256_of(file)
    if package.sha256 not in (None, sha256):
        raise ChecksumMismatch(
            f"{file.name} has sha256 {sha256}, but {package.sha256} is pinned; it was not kept. "
            "Look at the index or mirror that your package client uses."
        )
    return sha256


def _download(package: Package, part: Path, progress: Progress) -> Path:
    target, scratch = part / "package", part / "scratch"
    target.mkdir()
    scratch.mkdir()
    command = CLIENTS[package.client](package)
    # TMPDIR: pip writes there first, so the growth of `part` shows how far it is.
    environment = {**os.environ, "TMPDIR": str(scratch)}
    with (part / "client.log").open("w") as log:
        code = _run(command, target, environment, log.fileno(), _watch(package, part, progress))
    files = list(target.iterdir())
    if code != 0 or len(files) != 1:
        raise FetchFailed(
            f"`{' '.join(command)}` brought no {package.requirement} (exit status {code}): "
            f"{_last_words(part / 'client.log')}"
        )
    return files[0]


def _run(
    command: list[str],
    folder: Path,
    environment: dict[str, str],
    log: int,
    tick: Callable[[], None],
) -> int:
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
    )
    try:
        while process.poll() is None:
            tick()
            time.sleep(POLL_SECONDS)
        return process.returncode
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _watch(package: Package, part: Path, progress: Progress) -> Callable[[], None]:
    def tick() -> None:
        size = 0
        for file in part.rglob("*"):
            # The client renames and deletes under our feet.
            with contextlib.suppress(FileNotFoundError):
                size += file.stat().st_size
        progress(min(1.0, size / package.bytes))

    return tick


def _last_words(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    return " / ".join(line.strip() for line in lines[-4:]) or "it said nothing"


def _pip(package: Package) -> list[str]:
    if importlib.util.find_spec("pip") is None:
        raise MissingClient(f"{sys.executable} has no pip; run `{sys.executable} -m ensurepip`.")
    # Wheels for any platform only, so that one sha256 holds on every machine.
    portable = ["--platform", "any", "--implementation", "py", "--abi", "none"]
    return [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
        *(*portable, "--python-version", "3.11", "--progress-bar", "off", "-d", "."),
        f"{package.name}=={package.version}" if package.version else package.name,
    ]


def _apt(package: Package) -> list[str]:
    if shutil.which("apt-get") is None:
        raise MissingClient("no apt-get on this machine; it comes with Debian and its kin.")
    pinned = f"{package.name}={package.version}" if package.version else package.name
    return ["apt-get", "download", "-q", pinned]


def _npm(package: Package) -> list[str]:
    if shutil.which("npm") is None:
        raise MissingClient("no npm on this machine; install Node.js to have it.")
    pinned = f"{package.name}@{package.version}" if package.version else package.name
    return ["npm", "pack", "--ignore-scripts", pinned]


def _ignore(fraction: float) -> None:
    """Progress that nobody asked for."""


CLIENTS: dict[str, Callable[[Package], list[str]]] = {"pip": _pip, "apt": _apt, "npm": _npm}
