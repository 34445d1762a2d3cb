"""The losses of what a round has read, as a table: one row for each sequence of its batches.

    <folder>/part-0003-of-0008.parquet     columns step, row, domain, window, loss_nats

Parts are made one by one, or each by a job of its own, and appear whole or not at all; a part
that is there is not made again. Metadata of each file says which run was scored, and whose
scores of another run lie there is told, not mixed.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mixlab.corpora.files import write_atomically
from mixlab.errors import InvalidRecipe, MissingFile, TruncatedFile

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

RUN = b"run"


@dataclass(frozen=True)
class Scores:
    """Sequences and their losses; all arrays have the shape (sequence,)."""

    domains: tuple[str, ...]  # names
    step: Integers  # of the batch, counted from 1
    domain: Integers  # place in `domains`
    window: Integers  # of the domain's training stream
    loss_nats: Floats  # mean of the sequence's tokens

    def __len__(self) -> int:
        return len(self.step)

    @classmethod
    def none(cls, domains: tuple[str, ...]) -> "Scores":
        """Of no sequence."""
        empty = np.zeros(0, dtype=np.int64)
        return cls(domains, step=empty, domain=empty, window=empty, loss_nats=np.zeros(0))

    @classmethod
    def joined(cls, parts: Sequence["Scores"]) -> "Scores":
        """All parts as one; they must name the same domains."""
        arrays = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("step", "domain", "window", "loss_nats")
        }
        return cls(parts[0].domains, **arrays)


def part_file(folder: Path, part: int, parts: int) -> Path:
    """Where part number `part` of so many lies, counted from 0."""
    return folder / f"part-{part:04d}-of-{parts:04d}.parquet"


def steps_of(part: int, parts: int, steps: int) -> range:
    """The steps, counted from 1, that part `part` of `parts` scores: as many as the others."""
    return range(part * steps // parts + 1, (part + 1) * steps // parts + 1)


def write_scores(file: Path, scores: Scores, run: dict[str, Any]) -> None:
    """Write a part; `run` is the identity of the run that was scored, JSON-ready."""
    names = pa.DictionaryArray.from_arrays(pa.array(scores.domain, pa.int32()), scores.domains)
    table = pa.table(
        {
            "step": scores.step,
            "domain": names,
            "window": scores.window,
            "loss_nats": scores.loss_nats,
        }
    ).replace_schema_metadata({RUN: json.dumps(run, sort_keys=True)})
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, lambda path: pq.write_table(table, path))


def read_scores(folder: Path, parts: int, domains: Sequence[str], run: dict[str, Any]) -> Scores:
    """All parts, in the order of the steps.

    Raises MissingFile for a part that was not made yet, TruncatedFile for one that can't be read,
    and InvalidRecipe for scores of another run.
    """
    files = [part_file(folder, part, parts) for part in range(parts)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise MissingFile(f"{folder} has no {', '.join(missing)} yet; score the round first.")
    return Scores.joined([_read(file, tuple(domains), run) for file in files])


def _read(file: Path, domains: tuple[str, ...], run: dict[str, Any]) -> Scores:
    try:
        table = pq.read_table(file)
        told = json.loads((table.schema.metadata or {})[RUN])
        # Decoded to names and back, since a file's own order of names is its writer's.
        place = {name: i for i, name in enumerate(domains)}
        named = table["domain"].to_pylist()
        found = Scores(
            domains,
            step=table["step"].to_numpy().astype(np.int64),
            domain=np.array([place[name] for name in named], dtype=np.int64),
            window=table["window"].to_numpy().astype(np.int64),
            loss_nats=table["loss_nats"].to_numpy().astype(np.float64),
        )
    except (OSError, KeyError, ValueError, pa.ArrowException) as problem:
        raise TruncatedFile(
            f"{file} can't be read as scores ({problem!r:.200}); delete it, and score again."
        ) from problem
    if told != json.loads(json.dumps(run)):
        raise InvalidRecipe(f"{file} has the scores of another run; delete its folder.")
    return found
