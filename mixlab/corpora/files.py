"""Files and folders that are there whole or not at all, and what files hold as a hash."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mixlab.errors import AlreadyExists, TruncatedFile

HASH_CHUNK_BYTES = 1 << 20


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file, then rename it to `path`, and have both on the disk.

    A reader, or a run after a crash, sees the whole file or none. Once this returns it is there
    after a power cut too: the ledger may say so, and nobody would write it again.
    """
    # The name keeps its suffix, because np.save adds .npy where it is missing.
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        write(temporary)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a hidden folder beside it, then rename that to `folder`.

    Raises AlreadyExists where the folder holds something.
    """
    check_free(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # One name, so that what a killed export left is cleared by the next one.
    aside = folder.parent / f".writing-{folder.name}"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir()
        write(aside)
        for path in (*aside.iterdir(), aside):
            sync(path)
        aside.replace(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def check_free(folder: Path) -> None:
    """Raise AlreadyExists where a new folder can't be written, for something is there."""
    if folder.is_dir() and not any(folder.iterdir()):
        return  # an empty folder can be renamed over
    if folder.exists():
        raise AlreadyExists(f"{folder} is there already; name another folder, or delete it.")


def sync(path: Path) -> None:
    """Have a file's bytes, or a folder's names, on the disk before anything else is done."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """A JSON file, written atomically."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises TruncatedFile where there is no such thing."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise TruncatedFile(f"{path} can't be read ({problem}); fetch it again.") from problem
    if not isinstance(value, dict):
        raise TruncatedFile(f"{path} holds no JSON object; fetch it again.")
    return value


def file_sha256(path: Path) -> str:
    """The file's sha256 in hexadecimal, read in chunks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
