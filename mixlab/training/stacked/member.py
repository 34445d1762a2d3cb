"""One run of a stack: its recipe, guard, observations and files, as it would have them alone.

Its checkpoints are those of a solo run, in its own folder, so that a run may go on alone from
where a stack left it, and the other way round; and a stack whose runs were killed between two
of their checkpoints goes on from the newest step that all of them have. One file for the whole
stack would be written faster, but only that same stack could ever use it.

    <folder>/checkpoints/, weights.safetensors    as of a solo run
    <folder>/diverged.json                        why a run was left behind by its stack
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixlab.corpora.files import write_json
from mixlab.corpora.sampling import Sampler, TokenWindows
from mixlab.errors import Diverged
from mixlab.recipes import Recipe
from mixlab.runs import Observation
from mixlab.schedules import MixtureSchedule
from mixlab.training.checkpoints import Checkpoints
from mixlab.training.data import consumed_by, observed
from mixlab.training.decoder import Decoder
from mixlab.training.guards import Guard
from mixlab.training.metrics import MFU_FORMULA, utilisation
from mixlab.training.objective import NextTokenLoss
from mixlab.training.optimiser import adamw, learning_rate
from mixlab.training.parallel import World
from mixlab.training.records import TrainingResult
from mixlab.training.stacked.adamw import StackedAdamW
from mixlab.training.stacked.model import alone
from mixlab.training.stacked.records import Outcome, StackedRun
from mixlab.training.state import RunState, identity_of
from mixlab.training.weights import WEIGHTS, save_weights

DIVERGED = "diverged.json"


class Member:
    """A run of a stack, with views of its own weights and of AdamW's state of them.

    `error` is set once it has diverged; then its weights stay as they are.
    """

    def __init__(
        self, run: StackedRun, recipe: Recipe, streams: Mapping[str, TokenWindows],
        corpus: str, world: World, keep_last: int,
    ) -> None:  # fmt: skip
        self.run, self.world = run, world
        self.schedule = MixtureSchedule.of(run.mixture)
        self.recipe = run.recipe(recipe)
        self.sampler = Sampler(
            streams, self.schedule,
            context=recipe.architecture.context,
            batch_sequences=recipe.batch_sequences,
            batch_stages=recipe.batch_stages,
            seed=run.seed,
        )  # fmt: skip
        self.identity = identity_of(self.recipe, self.schedule, seed=run.seed, corpus=corpus)
        self.state, self.guard = RunState(), Guard(self.recipe)
        self.error = divergence_in(run.folder, self.identity)
        self.checkpoints = (
            None
            if run.folder is None
            else Checkpoints(run.folder, self.identity, world, keep_last=keep_last)
        )

    def bind(self, stack: Decoder, optimiser: StackedAdamW, place: int) -> None:
        """Take this run's place in the stack."""
        self.module = NextTokenLoss(alone(stack, place))
        self.solo = adamw(self.module, self.recipe)
        names = dict(self.module.decoder.named_parameters())
        of_stack = {id(one.value): one for one in optimiser.weights}
        self._states = {
            names[name]: of_stack[id(weight)].state_of(place)
            for name, weight in stack.named_parameters()
        }
        self._counts, self._place = optimiser.counts, place

    def rate(self, step: int) -> float:
        """The learning rate of an update, before any weight's scale."""
        return learning_rate(self.recipe, step)

    def observe(self, step: int, losses_nats: Mapping[str, float]) -> Observation:
        """An evaluation's losses as an observation."""
        return observed(step, losses_nats, self.recipe, self.schedule, self.sampler)

    def steps(self) -> set[int]:
        """The updates after which there is a checkpoint."""
        return set() if self.checkpoints is None else set(self.checkpoints.steps())

    def check(self) -> None:
        """Raise InvalidRecipe where the folder holds another run's checkpoints."""
        if self.checkpoints is not None:
            self.checkpoints.check()

    def start_over(self) -> None:
        """Remove what checkpoints there are: beside new ones they would be taken for newer."""
        if self.checkpoints is not None:
            self.checkpoints.drop_after(0)

    def load(self, step: int) -> None:
        """Go on from the checkpoint after that update: fill the stack's tensors and the state."""
        if self.checkpoints is None:
            return
        record = self.checkpoints.load(step, self.module, self.solo)
        self.checkpoints.drop_after(step)
        seen = [
            self.observe(entry["step"], entry["losses_nats"]) for entry in record["observations"]
        ]
        self.state = RunState.from_record(record, seen)
        self.guard = Guard(self.recipe, self.state.recent)
        for weight, views in self._states.items():
            for name, value in self.solo.state[weight].items():
                if name == "step":
                    self._counts[self._place] = value.double()
                else:
                    views[name].copy_(value)

    def save(self) -> None:
        """Write the checkpoint, as a solo run would, and after the last update the weights."""
        if self.checkpoints is None or self.run.folder is None:
            return
        count = self._counts[self._place].float()
        for weight, views in self._states.items():
            self.solo.state[weight] = {"step": count.clone(), **views}
        self.state.recent = list(self.guard.recent)
        record = self.state.to_record()
        if self.state.step == self.recipe.steps:
            save_weights(self.run.folder, self.module, self._record_of_weights(), self.world)
        self.checkpoints.save(self.state.step, self.module, self.solo, record, wait=True)

    def _record_of_weights(self) -> dict[str, Any]:
        return {"identity": self.identity, **self.state.to_record()}

    def fail(self, error: Diverged) -> None:
        """Leave the run behind, for good: its folder says so to whoever goes on with it."""
        self.error = error
        write_divergence(self.run.folder, self.identity, error)

    def outcome(self, evaluation_tokens: Mapping[str, int], peak: int, execution: str) -> Outcome:
        """What became of the run; `peak` bytes are the stack's."""
        state = self.state
        if self.error is not None:
            return self.error
        done = state.step == self.recipe.steps
        pace = self.recipe.tokens_before(state.step + 1) / max(state.update_seconds, 1e-9)
        skipped = [entry["step"] for entry in state.skipped]
        return TrainingResult(
            observations=tuple(state.observations),
            consumed=consumed_by(self.recipe, self.sampler, state.step, skipped),
            evaluation_tokens=evaluation_tokens,
            seconds=state.seconds,
            tokens_per_second=pace,
            peak_memory_bytes=peak,
            execution=execution,
            weights=self.run.folder / WEIGHTS if done and self.run.folder else None,
            ended="done" if done else "stopped",
            note="" if done else f"It was stopped after update {state.step}.",
            step=state.step,
            skipped=tuple(state.skipped),
            mfu=utilisation(self.recipe, pace, self.world.device, 1),
            mfu_formula=MFU_FORMULA.value,
        )


def write_divergence(folder: Path | None, identity: Mapping[str, Any], error: Diverged) -> None:
    """Let a run's folder tell that it has diverged, and why."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / DIVERGED, {"identity": identity, "detail": str(error)})


def divergence_in(folder: Path | None, identity: Mapping[str, Any]) -> Diverged | None:
    """What a folder tells of the divergence of this very run; None where nothing."""
    if folder is None or not (folder / DIVERGED).is_file():
        return None
    told = json.loads((folder / DIVERGED).read_text(encoding="utf-8"))
    same = told["identity"] == json.loads(json.dumps(identity))
    return Diverged(told["detail"]) if same else None
