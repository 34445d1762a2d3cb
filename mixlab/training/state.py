"""What a run knows of itself between two updates: the record of its checkpoints.

With weights and AdamW's state it is all that a run needs to go on: batches, mixture and rates
are functions of the step, and nothing in training is drawn by chance.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from mixlab.recipes import Recipe
from mixlab.runs import Observation
from mixlab.schedules import MixtureSchedule


@dataclass
class RunState:
    """Where a run is. Steps are updates done, those left out by a guard included."""

    step: int = 0
    begun_at: int = 0  # the trunk's step of a branch
    seconds: float = 0.0  # of all attempts
    update_seconds: float = 0.0
    observations: list[Observation] = field(default_factory=list)
    # Losses and gradient norms since the last line of metrics, of updates that were made.
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)  # what the guard compares with
    skipped: list[dict[str, Any]] = field(default_factory=list)  # updates left out, and why
    # Steps to come that a roll-back leaves out, and why.
    left_out: dict[int, dict[str, Any]] = field(default_factory=dict)
    roll_backs: int = 0

    def to_record(self) -> dict[str, Any]:
        """JSON-ready; observations by step and losses, for all else of them is the run's."""
        record = dict(vars(self))
        record["observations"] = [
            {"step": seen.step, "losses_nats": dict(seen.losses_nats)} for seen in self.observations
        ]
        record["left_out"] = list(self.left_out.values())
        return record

    @classmethod
    def from_record(cls, record: Mapping[str, Any], observations: list[Observation]) -> Self:
        """What `to_record` wrote, with the observations put together again."""
        values = dict(record)
        values["observations"] = observations
        values["left_out"] = {entry["step"]: entry for entry in record["left_out"]}
        return cls(**values)

    def skips_in_a_row(self, step: int) -> int:
        """How many updates were left out one after another, up to this one."""
        steps = {entry["step"] for entry in self.skipped}
        count = 0
        while step - count in steps:
            count += 1
        return count


def identity_of(
    recipe: Recipe,
    schedule: MixtureSchedule,
    *,
    seed: int,
    corpus: str,
    beginning: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What tells a run from all others; JSON-ready. `corpus` is its fingerprint.

    A `beginning` (what `begun` gives) is named only where there is one.
    """
    mixture = schedule.to_dict()
    found = {"recipe": recipe.to_dict(), "mixture": mixture, "seed": seed, "corpus": corpus}
    return found if beginning is None else {**found, "beginning": dict(beginning)}
