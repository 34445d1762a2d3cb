"""A checkpoint's folder: whole or not there, and proved by hashes before it is used.

    checkpoints/step-000000120/run.json        record, identity, size and sha256 of every file
    checkpoints/step-000000120/shard-*.safetensors
    checkpoints/.writing-step-000000140/       being written; leftovers of a killed run
    checkpoints/.dropped-step-000000100/       being removed
    checkpoints/.replaced-step-000000120/      until its replacement has its name

A folder is written aside, its files are synced to disk, `run.json` comes last, and one rename
makes it a checkpoint: a run killed at any moment leaves the old one or the new one, whole.
Nothing is pickled, so reading one runs no code. Limits: ranks on several hosts must see one
shared folder whose renames are atomic (a local disk, NFS, Lustre; not an object store).
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mixlab.corpora.files import file_sha256, sync
from mixlab.errors import InUse, InvalidRecipe, NotWritten, TruncatedFile

FORMAT = 1
RECORD = "run.json"
WRITING, DROPPED, REPLACED = ".writing-", ".dropped-", ".replaced-"
STEP = re.compile(r"step-(\d{9,})")
LOCK = ".lock"
LOCK_SECONDS = 10.0  # that a run before may take to end, once it was killed

Entries = dict[str, dict[str, Any]]  # file name -> {"bytes", "sha256"}


def folder_name(step: int) -> str:
    """The name of the checkpoint after so many updates."""
    return f"step-{step:09d}"


def steps_in(root: Path) -> list[int]:
    """The updates after which there is a checkpoint, rising."""
    if not root.is_dir():
        return []
    found = [STEP.fullmatch(entry.name) for entry in root.iterdir() if entry.is_dir()]
    return sorted(int(match[1]) for match in found if match)


def locked(root: Path, seconds: float = LOCK_SECONDS) -> int | None:
    """Hold the folder until the descriptor is closed, or the process ends, however it does.

    None where the file system has no locks. Raises InUse where another process of this
    machine still holds it after so many seconds, and NotWritten where there can't be a folder.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        # A file and open for writing, since NFS locks nothing else.
        descriptor = os.open(root / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise NotWritten(
            f"{root} can't be made ({error.strerror or error}); give the run another folder."
        ) from error
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= end:
                os.close(descriptor)
                raise InUse(
                    f"Another process trains in {root.parent}; wait for it, stop it, or give this "
                    "run a folder of its own."
                ) from None
            time.sleep(0.1)
        except OSError:  # NFS and others, as they are mounted
            os.close(descriptor)
            return None


def remove_leftovers(root: Path) -> None:
    """Remove what a killed writer left behind; a folder without its replacement is put back."""
    for folder in root.glob(f"{REPLACED}*"):
        named = root / folder.name.removeprefix(REPLACED)
        shutil.rmtree(folder) if named.exists() else folder.rename(named)
    for pattern in (f"{WRITING}*", f"{DROPPED}*"):
        for folder in root.glob(pattern):
            shutil.rmtree(folder)


def drop(folder: Path) -> None:
    """Remove a checkpoint; one that is half removed is none any more."""
    aside = folder.with_name(f"{DROPPED}{folder.name}")
    folder.rename(aside)
    shutil.rmtree(aside)


def describe(folder: Path, pattern: str) -> Entries:
    """Size and hash of the folder's files of that pattern, as they are on disk."""
    return {
        file.name: {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
        for file in sorted(folder.glob(pattern))
    }


def publish(
    aside: Path, folder: Path, record: Mapping[str, Any], identity: object, files: Entries
) -> None:
    """Complete a folder that was written aside, and make it the checkpoint."""
    content = {"format": FORMAT, "record": record, "identity": identity, "files": files}
    content = json.loads(json.dumps(content))
    with (aside / RECORD).open("w", encoding="utf-8") as handle:
        json.dump(content | {"sha256": _digest(content)}, handle, indent=1)
        handle.flush()
        os.fsync(handle.fileno())
    sync(aside)
    replaced = folder.with_name(f"{REPLACED}{folder.name}")
    if folder.exists():
        folder.rename(replaced)
    aside.rename(folder)
    sync(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def read_record(folder: Path, way_out: str) -> dict[str, Any]:
    """What `publish` wrote. Raises TruncatedFile, ending in the way out, where it is damaged."""
    file = folder / RECORD
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        digest = content.pop("sha256")
        if digest == _digest(content) and content["format"] == FORMAT:
            return content
        problem = "its contents are not those that were written"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = str(error)
    raise TruncatedFile(f"{file} can't be read ({problem}); {way_out}.")


def verify(folder: Path, files: Entries, names: Sequence[str], way_out: str) -> None:
    """Compare the named files with what is told of them.

    Raises TruncatedFile for the first that is missing, has another size or another content,
    and for tensors that are not the checkpoint's.
    """
    for name in names:
        file = folder / name
        problem = _problem(file, files[name])
        if problem:
            raise TruncatedFile(f"{file} {problem}; {way_out}.")
    strangers = {file.name for file in folder.glob("*.safetensors")} - set(files)
    if strangers:
        raise TruncatedFile(
            f"{folder} holds {' and '.join(sorted(strangers))}, which the run didn't write there; "
            "remove them."
        )


def check_identity(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise InvalidRecipe where the checkpoint is of another run."""
    expected = json.loads(json.dumps(wanted))
    # Keys of both: a run that began with given weights is another than one that did not.
    other = [key for key in {**expected, **found} if found.get(key) != expected.get(key)]
    if other:
        raise InvalidRecipe(
            f"{folder} is the checkpoint of a run with another {' and '.join(other)}; give each "
            f"run a folder of its own, or delete {folder.parent}."
        )


def _problem(file: Path, told: Mapping[str, Any]) -> str | None:
    try:
        size = file.stat().st_size
        if size != told["bytes"]:
            return f"has {size} bytes where {told['bytes']} were written"
        if file_sha256(file) != told["sha256"]:
            return "doesn't have the sha256 that it was written with"
    except OSError as error:
        return f"can't be read ({error.strerror or error})"
    return None


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
