"""What a run's processes tell whoever started them: JSON, one event a line.

    {"event": "started", "rank": 0, "pid": 4711}     once per process
    {"event": "progress", "step": 120, "steps": 250, "train_loss_nats": 5.1, ...}
    {"event": "observation", "step": 120, "tokens": 245760, "losses_nats": {"law": 4.9, ...}}
    {"event": "ended" or "stopped", "consumed": [...], "observations": [...], "seconds": ..., ...}
    {"event": "error", "type": "diverged", "detail": ...}    not worth trying again
    {"event": "crashed", "rank": 1, "detail": ...}                         worth trying again

Only rank 0 tells how the run goes; every rank tells of its start and its end with an error.
Lines of several processes don't mix: each is one write of less than a pipe holds at once.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from mixlab.errors import MixlabError, named
from mixlab.runs import Observation
from mixlab.training.records import TrainingProgress, TrainingResult

Event = Mapping[str, Any]
Emit = Callable[[Event], None]

LONGEST_DETAIL = 2000  # characters of an error; a pipe takes 4096 bytes at once


def of_progress(now: TrainingProgress) -> Iterator[Event]:
    """How far the run is, and what it has just measured."""
    yield {"event": "progress", **_plain(now, without="observation")}
    if now.observation is not None:
        yield {"event": "observation", **of_observation(now.observation)}


def of_observation(seen: Observation) -> dict[str, Any]:
    """An evaluation as the ledger keeps it."""
    return {"step": seen.step, "tokens": seen.tokens, "losses_nats": dict(seen.losses_nats)}


def of_result(result: TrainingResult) -> Event:
    """How a run ended, with everything that it measured and consumed."""
    name = "stopped" if result.ended == "stopped" else "ended"
    observations = [of_observation(seen) for seen in result.observations]
    return {"event": name, **_plain(result, without="observations"), "observations": observations}


def of_error(problem: MixlabError) -> Event:
    """A deliberate error: its class by name, and what it says."""
    detail = str(problem)[:LONGEST_DETAIL]
    return {"event": "error", "type": problem.slug(), "detail": detail}


def of_crash(problem: BaseException, rank: int) -> Event:
    """Any other end."""
    detail = f"{type(problem).__name__}: {problem}"[:LONGEST_DETAIL]
    return {"event": "crashed", "rank": rank, "detail": detail}


def error_in(event: Event) -> MixlabError:
    """The error that an event tells of."""
    return named(str(event["type"]), str(event["detail"]))


def write(path: Path, event: Event) -> None:
    """Append an event to a file or named pipe."""
    line = json.dumps(event, allow_nan=False) + "\n"
    to = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        left = memoryview(line.encode())
        while left:
            left = left[os.write(to, left) :]
    finally:
        os.close(to)


def _plain(record: TrainingProgress | TrainingResult, without: str) -> dict[str, Any]:
    """A record's fields as JSON holds them."""
    names = [field.name for field in fields(record) if field.name != without]
    return {name: _json(getattr(record, name)) for name in names}


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_json(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path | Observation) else value
