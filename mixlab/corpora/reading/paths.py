"""Which files may be read, and how they are opened so that this stays true.

Library use has no policy: everything that the user can read. A service hands in a
PathPolicy: local paths must lie inside an allowed root, with no symbolic link
below the root, and remote URLs need an allowed scheme. The path is walked folder
by folder with open file descriptors and O_NOFOLLOW, so a link that is swapped in
between check and use is refused too. Only regular files are opened, after a look
at their type: opening a FIFO would hang, opening a device may act.

Nothing is ever decoded: a location with `%41`, a backslash, `..` or a control
character is refused under a policy, since another layer might decode it once more
(CVE-2023-2780, CVE-2024-1560 in MLflow). Remote URLs name a bucket and a key in it,
never a host; where reading them may connect is held in `network.py`.

Limits: hard links can't be told from files. Linux and macOS.
"""

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mixlab.errors import MissingFile, PathNotAllowed

LOCAL_SCHEMES = frozenset({"file", "local"})
# Object stores whose libraries connect through Python's sockets, which network.py watches.
REMOTE_SCHEMES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"})

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# No user, host, port, query or pattern: a bucket's name, then a key.
_BUCKET_AND_KEY = re.compile(r"/{0,2}[A-Za-z0-9][A-Za-z0-9._-]*(/[^?#*\[\]{}]*)?")

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK, because a FIFO put there after the look at its type must not hang us.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


def split_location(location: str) -> tuple[str | None, str]:
    """The scheme of a remote URL, or None, and the URL or the local path.

    `file://` and `local://` are local paths, written with no host or `localhost`.
    """
    match = _URL.fullmatch(location)
    if match is None:
        return None, location
    scheme, rest = match[1].lower(), match[2]
    if scheme not in LOCAL_SCHEMES:
        return scheme, location
    path = rest.removeprefix("localhost") if rest.startswith("localhost/") else rest
    if not path.startswith("/"):
        raise PathNotAllowed(f"{location!r} names a host; write file:///absolute/path.")
    return None, path


@dataclass(frozen=True)
class PathPolicy:
    """Where corpora may be read from.

    roots: local folders; links on the way to a root are followed, below it none is.
    remote_schemes: fsspec schemes ("s3"), or URL prefixes ("s3://bucket/pile"); none by default.
    on_open: hears of each file just before it is opened.
    apart: a folder that is no text, though a root may hold it: the service's home, with the logs,
        shards and observations of others. Only a root that lies in it is read.
    """

    roots: tuple[Path, ...] = ()
    remote_schemes: tuple[str, ...] = ()
    on_open: Callable[[str], object] | None = None
    apart: Path | None = None

    def __post_init__(self) -> None:
        real = tuple(Path(os.path.realpath(root)) for root in self.roots)
        object.__setattr__(self, "roots", real)
        if self.apart is not None:
            object.__setattr__(self, "apart", Path(os.path.realpath(self.apart)))

    def is_apart(self, path: Path) -> bool:
        """Whether a real path lies in the folder that is no text."""
        if self.apart is None or not path.is_relative_to(self.apart):
            return False
        within = (root for root in self.roots if root.is_relative_to(self.apart))
        return not any(map(path.is_relative_to, within))

    def check(self, location: str) -> str:
        """The location, normalised, if it is allowed and (when local) there.

        Raises PathNotAllowed or MissingFile. Remote URLs are not contacted.
        """
        _refuse_spelling(location)
        scheme, path = split_location(location)
        if scheme is not None:
            self._check_remote(scheme, location)
            return location
        root, parts = self._inside(path)
        normal = str(root.joinpath(*parts))
        if parts:
            self.status(normal)
        else:
            os.close(self.open_folder(normal))
        return normal

    def status(self, path: str) -> os.stat_result:
        """What lies at a path below a root: a regular file or a folder, else an error."""
        with self._parent(path) as (parent, name), _explained(path):
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        refuse_special(path, found, or_folder=True)
        return found

    def open_file(self, path: str) -> BinaryIO:
        """A regular file inside a root, open for reading."""
        with self._parent(path) as (parent, name), _explained(path):
            refuse_special(path, os.stat(name, dir_fd=parent, follow_symlinks=False))
            descriptor = os.open(name, _FILE | os.O_NOFOLLOW, dir_fd=parent)
        return _as_regular_file(descriptor, path)

    def open_folder(self, path: str) -> int:
        """A descriptor of a folder inside a root; the caller closes it."""
        root, parts = self._inside(path)
        with _descend(root, parts) as folder:
            return os.dup(folder)

    @contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        root, parts = self._inside(path)
        with _descend(root, parts[:-1]) as parent:
            yield parent, parts[-1] if parts else "."

    def _inside(self, path: str) -> tuple[Path, tuple[str, ...]]:
        """The root that holds a path, and the names that lead from there to it.

        The outermost folder on the way that is a root counts, so `/home/me` works where
        /home is a link and the root was given as it really lies.
        """
        if path.startswith("/") and ".." not in path.split("/"):
            names = tuple(name for name in path.split("/") if name not in ("", "."))
            for depth in range(len(names) + 1):
                folder = Path(os.path.realpath("/" + "/".join(names[:depth])))
                if folder in self.roots:
                    if self.is_apart(folder.joinpath(*names[depth:])):
                        raise PathNotAllowed(f"{path!r} lies in the service's home folder.")
                    return folder, names[depth:]
        roots = ", ".join(map(str, self.roots)) or "none; set MIXLAB_DATA_ROOTS"
        raise PathNotAllowed(
            f"{path!r} is not an absolute path inside an allowed folder (allowed: {roots})."
        )

    def _check_remote(self, scheme: str, location: str) -> None:
        if scheme not in REMOTE_SCHEMES:
            raise PathNotAllowed(
                f"{location!r}: {scheme} is never read here, since nothing would keep it out of "
                "the private network; download the file into an allowed folder."
            )
        if not _BUCKET_AND_KEY.fullmatch(location.partition("://")[2]):
            raise PathNotAllowed(
                f"{location!r} is not a bucket and a key in it, such as {scheme}://bucket/folder."
            )
        if not any(_allows(entry, scheme, location) for entry in self.remote_schemes):
            allowed = ", ".join(self.remote_schemes) or "none; set MIXLAB_REMOTE_SCHEMES"
            raise PathNotAllowed(f"{location!r} is not at an allowed remote place ({allowed}).")


def open_local(path: str, policy: PathPolicy | None) -> BinaryIO:
    """A local regular file, open for reading. Raises MissingFile or PathNotAllowed."""
    if policy is not None:
        return policy.open_file(path)
    with _explained(path):
        refuse_special(path, os.stat(path))
        descriptor = os.open(path, _FILE)
    return _as_regular_file(descriptor, path)


def local_status(path: str, policy: PathPolicy | None) -> os.stat_result:
    """What lies at a local path: a regular file or a folder, else an error."""
    if policy is not None:
        return policy.status(path)
    with _explained(path):
        found = os.stat(path)
    refuse_special(path, found, or_folder=True)
    return found


def refuse_special(path: str, found: os.stat_result, *, or_folder: bool = False) -> None:
    """Raise PathNotAllowed unless it is a regular file (or a folder, where that will do)."""
    if stat.S_ISREG(found.st_mode) or (or_folder and stat.S_ISDIR(found.st_mode)):
        return
    raise PathNotAllowed(
        f"{path!r} is a {kind_of(found.st_mode)}; only regular files are read, "
        "and under allowed folders no symbolic link is followed."
    )


def kind_of(mode: int) -> str:
    """A word for a file's type."""
    words = {
        stat.S_IFREG: "regular file",
        stat.S_IFDIR: "folder",
        stat.S_IFLNK: "symbolic link",
        stat.S_IFIFO: "FIFO",
        stat.S_IFSOCK: "socket",
    }
    return words.get(stat.S_IFMT(mode), "device")


def _allows(entry: str, scheme: str, location: str) -> bool:
    if "://" not in entry:
        return entry.lower() == scheme
    prefix = entry.rstrip("/")
    return location == prefix or location.startswith(prefix + "/")


def _refuse_spelling(location: str) -> None:
    problem = None
    if not location.strip():
        problem = "is empty"
    elif _CONTROL.search(location):
        problem = "holds a control character"
    elif "\\" in location:
        problem = "holds a backslash"
    elif _ESCAPE.search(location):
        problem = "holds a percent-encoded character"
    elif "::" in location:
        problem = "chains file systems"
    elif ".." in location.split("/"):
        problem = "holds '..'"
    if problem:
        raise PathNotAllowed(f"{location!r} {problem}; write a plain absolute path or URL.")


@contextmanager
def _descend(root: Path, parts: tuple[str, ...]) -> Iterator[int]:
    """A descriptor of the folder reached from a root through `parts`, following no link."""
    path = str(root)
    with _explained(path):
        folder = os.open(root, _FOLDER)
    try:
        for name in parts:
            path = f"{path}/{name}"
            with _explained(path):
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                refuse_special(path, found, or_folder=True)
                inner = os.open(name, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = inner
        yield folder
    finally:
        os.close(folder)


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Turn what the operating system says into MissingFile. ValueError: a NUL in the path."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise MissingFile(
            f"{path!r} can't be read: {reason}. Check the path and its permissions."
        ) from error


def _as_regular_file(descriptor: int, path: str) -> BinaryIO:
    """The open descriptor as a file, after making sure of what was really opened."""
    try:
        refuse_special(path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")
