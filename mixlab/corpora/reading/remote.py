"""Remote files through fsspec: s3://, gs://, memory:// and what else is installed.

Credentials come from the environment, as each file system documents. Whether a URL
may be read at all is decided in `paths.py`, before anything here runs; where reading
it may connect, in `network.py`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from mixlab.corpora.reading.network import last_refusal
from mixlab.errors import FetchFailed, MissingFile, MixlabError, PathNotAllowed


def remote_file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL and the path in it. Raises PathNotAllowed if unknown."""
    # Imported here, because most corpora are local and fsspec loads slowly.
    from fsspec.core import url_to_fs

    try:
        file_system, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise PathNotAllowed(
            f"{url!r} can't be read: {error}. Install the package that serves this scheme "
            "(s3fs for s3://, gcsfs for gs://), or check its spelling."
        ) from error
    return file_system, path


def remote_info(url: str) -> tuple[bool, int]:
    """Whether a URL is a folder, and its bytes if it is a file. Raises MissingFile, FetchFailed."""
    file_system, path = remote_file_system(url)
    with _explained(url):
        found = file_system.info(path)
    return found["type"] == "directory", int(found.get("size") or 0)


def remote_files(url: str) -> list[tuple[str, str, int]]:
    """Every file under a remote folder: name relative to it, URL, bytes."""
    file_system, path = remote_file_system(url)
    base = path.rstrip("/") + "/"
    with _explained(url):
        found = file_system.find(path, detail=True)
    return [
        (name.removeprefix(base), file_system.unstrip_protocol(name), int(info.get("size") or 0))
        for name, info in found.items()
    ]


def open_remote(url: str) -> BinaryIO:
    """A remote file, open for reading and seeking. Raises MissingFile or FetchFailed."""
    file_system, path = remote_file_system(url)
    with _explained(url):
        return cast(BinaryIO, file_system.open(path, "rb"))


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turn what a file system's library raises into an error of ours."""
    try:
        yield
    except (MixlabError, MemoryError):
        raise
    except Exception as error:
        refused = last_refusal()
        if refused is not None:
            raise PathNotAllowed(
                f"{url!r} is not read, since {refused}; the operator may name that in "
                "MIXLAB_REMOTE_ENDPOINTS if corpora, or what opens them, lie there."
            ) from error
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise MissingFile(
                f"{url!r} can't be read: nothing is there, or it is forbidden."
            ) from error
        raise FetchFailed(
            f"{url!r} can't be read now: {type(error).__name__}: {str(error)[:300]}"
        ) from error
