"""Branches: runs that go on from another run's checkpoint, with a decay of their own.

A run at a constant rate is a trunk: from each of its checkpoints a branch lets the rate fall
to its end, so that one run gives many decayed end points for the price of the decays
(warm-up-stable-decay, arXiv 2405.18392; one trunk for many token budgets, arXiv 2404.06395).

A branch is, to the last bit on one CPU, the run of its own recipe from the start, because up
to its first step both are the same run: same shape, optimiser, batches, data and rates. That
is checked, and then the branch is a run like any other, with its trunk's past as its own. Its
batches go on at the exact token, for they depend on the step alone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mixlab.errors import InvalidRecipe, MissingFile
from mixlab.recipes import Recipe
from mixlab.schedules import MixtureSchedule
from mixlab.training.checkpoints.folders import folder_name, read_record
from mixlab.training.checkpoints.keeping import FOLDER, Checkpoints
from mixlab.training.engine import Engine
from mixlab.training.optimiser import learning_rate
from mixlab.training.parallel import World

# What a branch may have of its own: its end, and what changes no number or only last bits.
OWN = {
    "name", "steps", "schedule", "final_learning_rate", "decay_steps", "batch_stages",
    "evaluation_steps", "compiled", "activation_checkpointing",
}  # fmt: skip


@dataclass(frozen=True)
class Branch:
    """Where a run begins: after which update of which run."""

    folder: Path  # of the trunk's run
    step: int  # of one of its checkpoints; a milestone is kept for ever
    # The branch's length: the trunk's recipe then decays over so many updates. None where the
    # recipe is the branch's own.
    decay_steps: int | None = None

    def recipe(self, given: Recipe) -> Recipe:
        """The branch's recipe, from the trunk's or its own."""
        if self.decay_steps is None:
            return given
        return given.decayed(
            after=self.step, decay_steps=self.decay_steps, final=given.final_learning_rate
        )


def branched(start: Branch, own: Mapping[str, Any], engine: Engine, world: World) -> dict[str, Any]:
    """Fill a branch's weights and AdamW's state with its trunk's; the trunk's record.

    `own` is the branch's identity. Raises what `trunk_identity` and `check_branch` raise.
    """
    check_branch(start, trunk_identity(start), own)
    return Checkpoints(start.folder, None, world).load(start.step, engine.module, engine.optimiser)


def trunk_identity(start: Branch) -> dict[str, Any]:
    """Which run the trunk is. Raises MissingFile where it has no such checkpoint."""
    folder = start.folder / FOLDER / folder_name(start.step)
    if not folder.is_dir():
        raise MissingFile(
            f"There is no checkpoint {folder} to branch from; train the trunk with "
            f"milestones=({start.step},)."
        )
    identity: dict[str, Any] = read_record(folder, "take another checkpoint")["identity"]
    return identity


def check_branch(start: Branch, trunk: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raise InvalidRecipe unless both are the same run up to the branch's first step."""
    other = list(_differences(start.step, trunk, own))
    if other:
        raise InvalidRecipe(
            f"A branch must be the same run up to its beginning, but the one in {start.folder} "
            f"has another {' and '.join(other)} up to step {start.step}; branch from its "
            "plateau, with its recipe, mixture and seed."
        )


def _differences(step: int, trunk: Mapping[str, Any], own: Mapping[str, Any]) -> Iterator[str]:
    keys = ("seed", "corpus", "beginning")
    yield from (key for key in keys if trunk.get(key) != own.get(key))
    one, other = (Recipe.from_dict(identity["recipe"]) for identity in (trunk, own))
    for field in fields(Recipe):
        if field.name not in OWN and getattr(one, field.name) != getattr(other, field.name):
            yield field.name
    if not 0 < step < other.steps or step > one.steps:
        yield "length"
    stages = [[begun for begun in of.batch_stages if begun[0] <= step] for of in (one, other)]
    if stages[0] != stages[1]:
        yield "size of batches"
    if any(learning_rate(one, n) != learning_rate(other, n) for n in range(1, step + 1)):
        yield "learning rate"
    seen_tokens = other.tokens_before(step + 1)
    if _followed(trunk, seen_tokens) != _followed(own, seen_tokens):
        yield "mixture"


def _followed(identity: Mapping[str, Any], seen_tokens: int) -> list[tuple[int, int, Any]]:
    """The stages that were entered within so many tokens: begin, ramp and shares of each."""
    entered, begin = [], 0
    for stage in MixtureSchedule.from_dict(identity["mixture"]).stages:
        if begin < seen_tokens:
            shares = sorted((name, share) for name, share in stage.mixture if share)
            entered.append((begin, stage.ramp_tokens, shares))
        begin += stage.tokens or 0
    return entered
