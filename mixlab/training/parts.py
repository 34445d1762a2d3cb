"""Several runs after one another, told as one: a small model and the one grown of it, or rounds.

Steps, tokens, observations and what was consumed count from the first update of the first; each
event says its stage.
"""

from collections.abc import Mapping
from typing import Any

from mixlab.training.events import Emit, Event


class Parts:
    """What is told of runs after one another, `steps` updates in all."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._before: Event | None = None  # the parts that are over, told as one
        self._step = self._tokens = 0  # updates and tokens of those

    def over(self, ended: Event, tokens: int, stage: str) -> None:
        """A part is over: its last event, and the tokens that it saw."""
        self._before = self.ended(ended, stage)
        self._step += ended["step"]
        self._tokens += tokens

    def tell(self, event: Event, emit: Emit, stage: str) -> None:
        """Hand on what the current part says while it goes."""
        if event["event"] == "progress":
            moved = {"step": event["step"] + self._step, "steps": self.steps}
            emit({**event, **moved, "tokens": event["tokens"] + self._tokens, "stage": stage})
        elif event["event"] == "observation":
            emit({**self._later(event), "stage": stage})

    def ended(self, last: Event, stage: str) -> Event:
        """The current part's last event, with what those before it measured and read."""
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
