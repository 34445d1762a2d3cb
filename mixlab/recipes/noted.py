"""What a file of trained weights says of itself: safetensors' metadata "run", a note in JSON.

    {"identity": {"recipe": {...}, "corpus": ...}, ...}    of a run
    {"architecture": {...}, ...}                           of an import, or a model made of others

Without torch, since tokenizers are compressed without it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixlab.errors import TruncatedFile

NOTE = "run"


def noted_run(metadata: Mapping[str, str] | None, file: Path) -> dict[str, Any] | None:
    """The note; None where the file has none. Raises TruncatedFile for a damaged one."""
    text = (metadata or {}).get(NOTE)
    if text is None:
        return None
    try:
        run = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise TruncatedFile(f"{file} has a damaged note of its run ({problem}).") from problem
    if not isinstance(run, dict):
        raise TruncatedFile(f"{file} has a damaged note of its run ({run!r:.80}).")
    return run


def noted_architecture(run: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The shape of the model that a note is of, as JSON has it. Raises TruncatedFile without."""
    try:
        known = run if "architecture" in run else run["identity"]["recipe"]
        return dict(known["architecture"])
    except (KeyError, TypeError, ValueError) as problem:
        raise TruncatedFile(
            f"{file} doesn't say of what shape its model is ({problem!r}); train again."
        ) from problem


def noted_corpus(run: Mapping[str, Any] | None) -> str | None:
    """Fingerprint of the corpus that a run was on; None where that isn't told."""
    identity = (run or {}).get("identity")
    corpus = identity.get("corpus") if isinstance(identity, Mapping) else None
    return corpus if isinstance(corpus, str) else None
