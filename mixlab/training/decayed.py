"""Several decayed end points of one proxy run: a trunk at a constant rate, and its branches.

    steps     0 ........... s1 - decay ........... s2 - decay          the trunk, trained once
                                \\___ s1               \\___ s2          a branch for each end

A full-scale run ends with a decay, which late in training reaches what a constant rate doesn't,
so a law may want losses of decayed runs. Run by run, ends at s1 .. sn cost their sum; so they
cost max(s) - decay + n * decay. Observations of ends are of their own kind and don't belong
into one table with the trunk's: the law would see the decay as an effect of the step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mixlab.errors import InvalidRecipe
from mixlab.mixture import Mixture
from mixlab.recipes import Recipe
from mixlab.runs import Observation
from mixlab.schedules import MixtureSchedule
from mixlab.training.branches import Branch
from mixlab.training.loop import train
from mixlab.training.records import TokenCorpus, TrainingResult


@dataclass(frozen=True)
class DecayedEnd:
    """One end point; its observation's `run` is "decayed", which no undecayed one's is."""

    step: int  # updates in all, the decay's included
    decay_steps: int
    observation: Observation
    result: TrainingResult


@dataclass(frozen=True)
class DecayedEnds:
    """What one trunk gave."""

    trunk: TrainingResult
    ends: tuple[DecayedEnd, ...]  # by rising step

    @property
    def observations(self) -> tuple[Observation, ...]:
        """The ends' losses, for a law."""
        return tuple(end.observation for end in self.ends)


def trunk_of(recipe: Recipe, steps: Sequence[int], decay_steps: int) -> Recipe:
    """The recipe whose plateau all ends branch off from.

    Raises InvalidRecipe where an end leaves no plateau before its decay.
    """
    earliest, latest = min(steps) - decay_steps, max(steps) - decay_steps
    if decay_steps < 1 or earliest < max(1, recipe.warmup_steps):
        raise InvalidRecipe(
            f"The first end after {min(steps)} updates would begin its decay after {earliest}, "
            f"but {recipe.name} warms up for {recipe.warmup_steps}; take later ends, or a decay of "
            "1 to fewer updates."
        )
    if recipe.schedule == "cosine":
        raise InvalidRecipe(
            f"{recipe.name} has a cosine rate, which falls from its warm-up on; ends branch off "
            "from a plateau, so take a constant or wsd recipe."
        )
    return replace(
        recipe,
        steps=latest,
        schedule="constant",
        final_learning_rate=None,
        decay_steps=0,
        evaluation_steps=tuple(sorted({step - decay_steps for step in steps})),
        batch_stages=tuple(stage for stage in recipe.batch_stages if stage[0] <= latest),
    )


def decayed_ends(
    recipe: Recipe,
    corpus: TokenCorpus,
    mixture: Mixture | MixtureSchedule,
    *,
    steps: Sequence[int],
    decay_steps: int,
    seed: int,
    folder: Path,
    **options: Any,
) -> DecayedEnds:
    """Train the recipe once at its peak rate, and a decay to each of the ends after `steps`.

    The trunk lies in `folder/trunk`, the ends in `folder/end-000000250`; all are runs like
    others, and go on where they were killed. Options are `train`'s. Where it is stopped, the
    ends that are done are given. Raises what `trunk_of` and `train` raise.
    """
    trunk = trunk_of(recipe, steps, decay_steps)
    forks = trunk.evaluation_steps
    first = train(
        trunk, corpus, mixture, seed=seed, folder=folder / "trunk", milestones=forks, **options
    )
    ends = []
    for fork in forks:
        if fork > first.step:
            break
        end = _end(recipe, fork, decay_steps)
        result = train(
            end, corpus, mixture,
            seed=seed,
            folder=folder / f"end-{end.steps:09d}",
            start=Branch(folder / "trunk", fork),
            **options,
        )  # fmt: skip
        if result.ended == "stopped":
            break
        ends.append(_decayed(result, decay_steps))
    return DecayedEnds(first, tuple(ends))


def _end(recipe: Recipe, fork: int, decay_steps: int) -> Recipe:
    long = replace(recipe, steps=max(recipe.steps, fork + decay_steps + recipe.decay_steps))
    end = long.decayed(after=fork, decay_steps=decay_steps, final=recipe.final_learning_rate)
    return replace(end, evaluation_steps=(end.steps,))


def _decayed(result: TrainingResult, decay_steps: int) -> DecayedEnd:
    observation = replace(result.observations[-1], run="decayed")
    return DecayedEnd(observation.step, decay_steps, observation, result)
