"""Folders that are there whole or not at all, and the JSON in them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mixlab.corpora.files import sync
from mixlab.errors import AlreadyExists, TruncatedFile


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a hidden folder beside it, then rename that to `folder`.

    Raises AlreadyExists where the folder holds something.
    """
    _check_free(folder)
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


def _check_free(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        return  # an empty folder can be renamed over
    if folder.exists():
        raise AlreadyExists(f"{folder} is there already; name another folder, or delete it.")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises TruncatedFile where there is no such thing."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise TruncatedFile(f"{path} can't be read ({problem}); fetch it again.") from problem
    if not isinstance(value, dict):
        raise TruncatedFile(f"{path} holds no JSON object; fetch it again.")
    return value
