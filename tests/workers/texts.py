"""Domains of real text that every Python installation has."""

import json
import sysconfig
from pathlib import Path
from pydoc_data.topics import topics

LIBRARY = Path(sysconfig.get_paths()["stdlib"])


def write_domains(folder: Path) -> dict[str, Path]:
    """Three domains that differ: Python code, its documentation, tables of characters."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "code": [path.read_text() for path in sorted(LIBRARY.glob("[a-f]*.py"))],
        "documentation": list(topics.values()),
        "tables": [path.read_text() for path in sorted(LIBRARY.glob("encodings/cp12*.py"))],
    }
    return {name: _write(folder / f"{name}.jsonl", found) for name, found in texts.items()}


def _write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path
