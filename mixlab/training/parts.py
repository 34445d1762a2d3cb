"""Several runs after one another, told as one: a small model and the one grown of it, or rounds.

Steps, tokens, observations and what was consumed count from the first update of the first; each
event says its stage. A part that is done leaves `ended.json` in its folder, and is not done again.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mixlab.corpora.files import read_json, write_json
from mixlab.errors import InvalidRecipe
from mixlab.training.checkpoints.folders import locked
from mixlab.training.checkpoints.keeping import FOLDER
from mixlab.training.events import Emit, Event
from mixlab.training.running import Run, Stop, run_spec
from mixlab.training.spec import RunSpec

ENDED = "ended.json"


def claim(folder: Path, file: str, told: Mapping[str, Any], *, else_holds: str) -> None:
    """Say in a run's folder, in `file`, what is trained there in parts.

    Raises InvalidRecipe where it holds another run; `else_holds` says what one without the file is.
    """
    if (folder / file).is_file():
        before, now = read_json(folder / file), json.loads(json.dumps(told))
        other = [name for name in now if before.get(name) != now[name]]
        what = f"with another {' and '.join(other)}" if other else ""
    else:
        what = else_holds if (folder / FOLDER).exists() else ""
    if what:
        raise InvalidRecipe(f"{folder} holds a run {what}; give this one a folder of its own.")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / file, told)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Have the folder for this process alone. Raises InUse where another one has it."""
    lock = locked(folder)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


class Parts:
    """Runs of `steps` updates in all. `run` trains one, here where none is given."""

    def __init__(self, steps: int, *, emit: Emit, stop: Stop, run: Run | None = None) -> None:
        self.steps = steps
        self.stop = stop
        self._emit = emit
        self._run = run or _here
        self._before: Event | None = None  # the parts that are over, told as one
        self._step = self._tokens = 0  # updates and tokens of those

    def stage(self, stage: str) -> None:
        """Tell what begins now."""
        self._emit({"event": "stage", "stage": stage})

    def train(self, spec: RunSpec, stage: str, *, last: bool = False) -> Event:
        """Train a part, if no attempt before did; its last event, told of all parts so far.

        The spec lies in its folder by then.
        """
        file = spec.folder / ENDED
        if file.is_file() and not last:
            return self._over(read_json(file), spec, stage)
        self.stage(stage)
        spec.write(spec.file)
        ended = self._run(spec, lambda event: self._tell(event, stage), self.stop)
        if last or ended["event"] == "stopped":
            return self._ended(ended, stage)
        write_json(file, ended)
        return self._over(ended, spec, stage)

    def end(self, event: Event) -> Event:
        """Tell how all ended."""
        self._emit(event)
        return event

    def _over(self, ended: Event, spec: RunSpec, stage: str) -> Event:
        """A part is over, and the next one counts on from it."""
        self._before = self._ended(ended, stage)
        self._step += ended["step"]
        self._tokens += spec.recipe.tokens
        return self._before

    def _tell(self, event: Event, stage: str) -> None:
        """Hand on what the current part says while it goes."""
        if event["event"] == "progress":
            moved = {"step": event["step"] + self._step, "steps": self.steps}
            told = {**event, **moved, "tokens": event["tokens"] + self._tokens, "stage": stage}
            self._emit(told)
        elif event["event"] == "observation":
            self._emit({**self._later(event), "stage": stage})

    def _ended(self, last: Event, stage: str) -> Event:
        """A part's last event, with what those before it measured and read."""
        before = self._before
        if before is None or "observations" not in last:  # processes that ended without a word
            return {**last, "stage": stage}
        peak = max(before["peak_memory_bytes"], last["peak_memory_bytes"])
        return {
            **last,
            "stage": stage,
            "step": before["step"] + last["step"],
            "seconds": before["seconds"] + last["seconds"],
            "peak_memory_bytes": peak,
            "observations": [*before["observations"], *map(self._later, last["observations"])],
            "consumed": [*before["consumed"], *map(self._consumed, last["consumed"])],
            "skipped": [*before["skipped"], *map(self._skipped, last["skipped"])],
        }

    def _later(self, seen: Event) -> dict[str, Any]:
        moved = {"step": seen["step"] + self._step, "tokens": seen["tokens"] + self._tokens}
        return {**seen, **moved}

    def _skipped(self, one: Mapping[str, Any]) -> dict[str, Any]:
        return {**one, "step": one["step"] + self._step}

    def _consumed(self, one: Mapping[str, Any]) -> dict[str, Any]:
        moved = {name: one[name] + self._step for name in ("from_step", "to_step")}
        return {**one, **moved, "skipped": [step + self._step for step in one["skipped"]]}


def _here(spec: RunSpec, emit: Emit, stop: Stop) -> Event:
    return run_spec(spec, emit=emit, stop=stop)
