"""What a caller asks of a run beside its numbers: where it goes, who is told, when it stops."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mixlab.training.beginning import Beginning, check_alone
from mixlab.training.branches import Branch
from mixlab.training.records import TrainingProgress
from mixlab.training.trackers import Tracker

Progress = Callable[[TrainingProgress], None]


@dataclass(frozen=True)
class Options:
    """`train`'s arguments beside recipe, data and seed. Raises InvalidRecipe for two beginnings."""

    folder: Path | None
    progress: Progress | None
    checkpoint_seconds: float
    keep_last: int
    milestones: frozenset[int]
    stop: Callable[[], bool]
    start: Branch | None
    beginning: Beginning | None
    trackers: tuple[str | Tracker, ...]
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        check_alone(self.start, self.beginning)
