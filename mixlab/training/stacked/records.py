"""What a stack is asked to train, and what it says of it."""

from dataclasses import dataclass, replace
from pathlib import Path

from mixlab.errors import MixlabError
from mixlab.mixture import Mixture
from mixlab.recipes import Recipe
from mixlab.runs import Observation
from mixlab.schedules import MixtureSchedule
from mixlab.training.records import TrainingResult

# What became of a run; an error is told, not raised, so that it doesn't end the others.
Outcome = TrainingResult | MixlabError


@dataclass(frozen=True)
class StackedRun:
    """What one run of a group has for itself."""

    mixture: Mixture | MixtureSchedule
    seed: int
    learning_rate: float | None = None  # the peak; None is the recipe's
    folder: Path | None = None  # for checkpoints and weights, laid out as a solo run's

    def recipe(self, of_all: Recipe) -> Recipe:
        """The recipe that this run would have alone."""
        if self.learning_rate is None:
            return of_all
        return replace(of_all, learning_rate=self.learning_rate)


@dataclass(frozen=True)
class GroupProgress:
    """How far a group of runs is; told for every evaluation, and a few times a second at most."""

    fraction: float  # of all updates of all runs
    tokens_per_second: float  # of all runs together
    eta_seconds: float
    run: int | None = None  # whose observation it is, counted from 0
    observation: Observation | None = None
