"""The training loop: one for proxy runs and for the full-scale run, on one process or many.

    for step in 1 .. steps:  batch(mixture schedule, seed, step) -> loss -> gradients -> clip
                             -> guard -> AdamW
                             at evaluation steps: validation loss of every domain

For a seed, a machine and a number of threads, losses are equal to the last bit, and a run that
was killed goes on from its checkpoint to the same losses. Reading a loss waits for the device,
so losses are looked at every few steps, and before anything is measured or saved; only the
guard that skips has to look at each. Ranks agree on a stop or a checkpoint once a step, through
a message between CPUs.
Limits: resuming on another device or number of ranks changes the last bits.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixlab.errors import InvalidRecipe
from mixlab.mixture import Mixture
from mixlab.recipes import Recipe
from mixlab.runs import Observation
from mixlab.schedules import MixtureSchedule
from mixlab.training.allocation import hold_memory
from mixlab.training.beginning import Beginning, begun
from mixlab.training.branches import Branch, branched
from mixlab.training.checkpoints import Checkpoints
from mixlab.training.data import (
    check_reached,
    check_vocabulary,
    consumed_by,
    last_step,
    observed,
    sampler_of,
    validation_of,
)
from mixlab.training.engine import Engine
from mixlab.training.guards import (
    LOSS,
    ROLL_BACKS,
    SKIPS_IN_A_ROW,
    STEPS_ROLLED_BACK,
    Anomaly,
    Guard,
    left_out,
)
from mixlab.training.metrics import MFU_FORMULA
from mixlab.training.options import Options, Progress
from mixlab.training.parallel import World
from mixlab.training.placement import deterministic, peak_memory_bytes
from mixlab.training.records import TokenCorpus, TrainingResult
from mixlab.training.reporting import Reporter, mean, tokens_per_second
from mixlab.training.state import RunState, identity_of
from mixlab.training.trackers import Tracker
from mixlab.training.weights import WEIGHTS, keep_weights, save_weights

LOOK_EVERY_STEPS = 10


def train(
    recipe: Recipe,
    corpus: TokenCorpus,
    mixture: Mixture | MixtureSchedule,
    *,
    seed: int,
    folder: Path | None = None,
    progress: Progress | None = None,
    threads: int | None = None,
    checkpoint_seconds: float = 30.0,
    keep_last: int = 2,
    milestones: Sequence[int] = (),
    max_epochs: float | None = None,
    world: World | None = None,
    stop: Callable[[], bool] | None = None,
    start: Branch | None = None,
    beginning: Beginning | None = None,
    trackers: Sequence[str | Tracker] = (),
    clock: Callable[[], float] = time.monotonic,
) -> TrainingResult:
    """Train the recipe on the mixture and measure every domain's validation loss.

    With a folder, a checkpoint is kept there at least every `checkpoint_seconds` and at the
    end, a run that was killed goes on from it, and the final weights are saved; the newest
    `keep_last` and those after the steps in `milestones` stay. `threads` is the number of CPU
    threads, which changes results in their last bits. The run ends early where `stop()` says
    so, asked once per step, after writing a checkpoint; and before the first update that would
    read a domain more than `max_epochs` times. With `start` it begins as a branch of another
    run, with `beginning` from given weights. `trackers` are names or values of the protocol.

    Raises Diverged with the step and the value, InvalidRecipe for a vocabulary that is too
    small, a folder of another run, a branch that is none or weights of another shape,
    InvalidMixture for domains that the corpus lacks, DomainTooSmall for a domain with less than
    one sequence (or less than `max_epochs` allows one update), MissingExtra for a tracker that
    isn't installed, and NotWritten for a checkpoint that the disk didn't take.
    """
    world = world or World.alone()
    options = Options(
        folder=folder,
        progress=progress,
        checkpoint_seconds=checkpoint_seconds,
        keep_last=keep_last,
        milestones=frozenset(milestones),
        stop=stop or (lambda: False),
        start=start,
        beginning=beginning,
        trackers=tuple(trackers),
        clock=clock,
    )
    if start is not None:
        recipe = start.recipe(recipe)
    schedule = MixtureSchedule.of(mixture)
    with deterministic(world.device, threads), hold_memory():
        run = _Run(recipe, corpus, schedule, seed, max_epochs, world, options)
        return run.to_its_end()


class _Run:
    """A run between its first and last update."""

    def __init__(
        self,
        recipe: Recipe,
        corpus: TokenCorpus,
        schedule: MixtureSchedule,
        seed: int,
        max_epochs: float | None,
        world: World,
        options: Options,
    ) -> None:
        check_vocabulary(recipe, corpus)
        self.recipe, self.schedule, self.world, self.options = recipe, schedule, world, options
        given = options.beginning
        self.identity = identity_of(
            recipe, schedule, seed=seed, corpus=corpus.fingerprint,
            beginning=begun(given, recipe, world),
        )  # fmt: skip
        self.sampler = sampler_of(recipe, corpus, schedule, seed=seed, max_epochs=max_epochs,
                                  first_token=given.tokens if given else 0)  # fmt: skip
        self.last, self.note = last_step(recipe, self.sampler)
        self.evaluations = {step for step in recipe.evaluation_steps if step <= self.last}
        # What an exhausted run has learned is measured where it ends.
        self.evaluations |= {self.last} if self.note else set()
        self.reporter = Reporter(recipe, self.last, world, options, self.identity)
        self.checkpoints = self._kept()
        self.validation = validation_of(recipe, corpus)
        self.engine = Engine(recipe, self.sampler, seed, world, given.weights if given else None)
        self.state, self.guard = RunState(), Guard(recipe)
        self.pending: list[tuple[int, Tensor, Tensor]] = []  # step, loss, norm: not read yet

    def _kept(self) -> Checkpoints | None:
        options, goes_back = self.options, self.recipe.on_anomaly == "roll_back"
        if options.folder is None:
            if goes_back:
                raise InvalidRecipe(
                    f"{self.recipe.name} rolls back on an anomaly, which needs checkpoints; "
                    "give the run a folder, or take on_anomaly 'skip'."
                )
            return None
        # There must be one to go back to, however early the anomaly is.
        first = {options.start.step if options.start else 0} if goes_back else set()
        return Checkpoints(
            options.folder,
            self.identity,
            self.world,
            keep_last=options.keep_last,
            milestones=options.milestones | first,
        )

    def to_its_end(self) -> TrainingResult:
        """Resume where a checkpoint is, do the remaining updates, and sum up."""
        with ExitStack() as opened:
            opened.callback(self.reporter.close)
            opened.callback(self.engine.batches.close)
            if self.checkpoints is not None:
                opened.enter_context(self.checkpoints)
            self._begin()
            stopped = self._go_on() if self.state.step < self.last else self._was_done()
        return self._result(stopped)

    def _was_done(self) -> bool:
        """A run that was done keeps its weights; False, since nothing stops it."""
        check_reached(self.state.step, self.last, self.sampler)
        if self.options.folder is not None:
            run = {"identity": self.identity, **self.state.to_record()}
            keep_weights(self.options.folder, self.engine.module, run, self.world)
        return False

    def _begin(self) -> None:
        """Fill weights and state from the newest checkpoint, or the trunk's."""
        start, checkpoints = self.options.start, self.checkpoints
        record = checkpoints and checkpoints.resume(self.engine.module, self.engine.optimiser)
        if record:
            self._restore(record)
        elif start is not None:
            self._restore(branched(start, self.identity, self.engine, self.world))
            self.state.begun_at, self.state.seconds, self.state.update_seconds = start.step, 0, 0

    def _restore(self, record: Mapping[str, Any]) -> None:
        seen = [
            self._observation(entry["step"], entry["losses_nats"])
            for entry in record["observations"]
            if entry["step"] in self.evaluations
        ]
        self.state = RunState.from_record(record, seen)
        self.guard = Guard(self.recipe, self.state.recent)
        self.pending.clear()

    def _go_on(self) -> bool:
        """Do the remaining updates; whether the run was stopped before the last."""
        self.engine.compile()
        clock, seconds_before = self.options.clock, self.state.seconds
        began = saved = clock()
        self.reporter.begin(self.state, self.engine, began)
        kept = self.checkpoints if self.recipe.on_anomaly == "roll_back" else None
        if kept and not kept.steps():
            self._save(wait=True)
        while self.state.step < self.last:
            found = self._advance()
            now = clock()
            self.state.seconds = seconds_before + now - began
            self.reporter.progress(self.state, found, now)
            stop, due = self._agreed(self._is_due(now - saved))
            ends = stop or self.state.step == self.last
            if ends or due or self.state.step in self.options.milestones:
                self._save(wait=ends)
                saved = clock()
            if stop:
                return self.state.step < self.last
        return False

    def _is_due(self, seconds: float) -> bool:
        """Whether so long after the latest checkpoint it is time for another."""
        # A disk that takes longer than the interval makes checkpoints rarer, not updates.
        busy = self.checkpoints is not None and self.checkpoints.busy
        return seconds >= self.options.checkpoint_seconds and not busy

    def _agreed(self, due: bool) -> tuple[bool, bool]:
        """Whether any rank is asked to stop, and whether the first one's clock wants a checkpoint.

        A message between CPUs, which doesn't wait for the device.
        """
        stop = self.options.stop()
        if self.world.size == 1:
            return stop, due
        flags = self.world.sum(torch.tensor([int(stop), int(due and self.world.main)]))
        return bool(flags[0]), bool(flags[1])

    def _advance(self) -> Observation | None:
        """One update and what belongs to it; the evaluation, where there is one."""
        began = self.options.clock()
        step = self.state.step + 1
        self.state.step = step
        if step in self.state.left_out:
            self.state.skipped.append(self.state.left_out[step])
        else:
            self._update(step)
        evaluates = step in self.evaluations
        looks = evaluates or step % LOOK_EVERY_STEPS == 0
        sound = self._read() if looks else True
        self.state.update_seconds += self.options.clock() - began
        if not looks or not sound:
            return None
        loss = mean(self.state.losses)
        if loss is not None:
            self.guard.check_mean(step, loss)
        found = self._evaluate() if evaluates else None
        self.reporter.line(self.state, found)
        self.state.losses.clear()
        self.state.norms.clear()
        return found

    def _update(self, step: int) -> None:
        """One weight update, unless the guard leaves it out."""
        loss, norm = self.engine.gradients(step)
        if self.recipe.on_anomaly == "skip" and self._is_anomalous(step, loss, norm):
            self.engine.discard()
            return
        self.engine.apply(step)
        if self.recipe.on_anomaly != "skip":
            self.pending.append((step, loss, norm))

    def _is_anomalous(self, step: int, loss: Tensor, norm: Tensor) -> bool:
        """Look at an update before it is made; here the loop waits for the device."""
        self.pending.append((step, loss, norm))
        found = self._first_anomaly()
        if not self.world.any(found is not None):
            return False
        found = found or Anomaly(step, LOSS, float("nan"))
        self.state.skipped.append(found.to_dict())
        if self.state.skips_in_a_row(step) >= SKIPS_IN_A_ROW:
            raise self.guard.diverged(
                found, tried=f", the {SKIPS_IN_A_ROW}th update skipped in a row"
            )
        return True

    def _first_anomaly(self) -> Anomaly | None:
        """Read the losses that are pending, up to one that is anomalous."""
        if not self.pending:
            return None
        steps, losses, norms = zip(*self.pending, strict=True)
        self.pending.clear()
        # One transfer from the device for both.
        values = torch.cat((self.world.sum(torch.stack(losses)), torch.stack(norms))).tolist()
        for step, loss, norm in zip(steps, values, values[len(steps) :], strict=False):
            found = self.guard.anomaly(step, loss, norm)
            if found is not None:
                return found
            self.state.losses.append(loss)
            self.state.norms.append(norm)
        return None

    def _read(self) -> bool:
        """Read the losses so far; False where the run has gone back because of one."""
        found = self._first_anomaly()
        if found is None:
            return True
        if self.recipe.on_anomaly != "roll_back":
            raise self.guard.diverged(found)
        self._roll_back(found)
        return False

    def _roll_back(self, found: Anomaly) -> None:
        """Go back to a checkpoint before the anomaly, and leave out what led to it."""
        assert self.checkpoints is not None
        before = self.state
        if before.roll_backs >= ROLL_BACKS:
            raise self.guard.diverged(found, tried=f", after {ROLL_BACKS} roll-backs")
        first = max(before.begun_at + 1, found.step - STEPS_ROLLED_BACK + 1)
        self.checkpoints.wait()
        target = max(step for step in self.checkpoints.steps() if step < first)
        self._restore(self.checkpoints.load(target, self.engine.module, self.engine.optimiser))
        self.checkpoints.drop_after(target)
        self.state.left_out = before.left_out | left_out(found, first)
        self.state.roll_backs = before.roll_backs + 1
        self.state.seconds, self.state.update_seconds = before.seconds, before.update_seconds
        self.reporter.rewind(self.state)

    def _evaluate(self) -> Observation:
        losses = self.engine.evaluate(self.validation)
        for name, loss in losses.items():
            if not math.isfinite(loss):
                what = f"validation loss of {name!r}"
                raise self.guard.diverged(Anomaly(self.state.step, what, loss))
        self.state.observations.append(self._observation(self.state.step, losses))
        return self.state.observations[-1]

    def _observation(self, step: int, losses_nats: Mapping[str, float]) -> Observation:
        return observed(step, losses_nats, self.recipe, self.schedule, self.sampler)

    def _save(self, *, wait: bool) -> None:
        """Write the checkpoint, and after the last update the weights."""
        folder = self.options.folder
        # What is saved has been looked at: no checkpoint holds an anomaly to go back from.
        if self.checkpoints is None or folder is None or not self._read():
            return
        self.state.recent = list(self.guard.recent)
        record = self.state.to_record()
        if self.state.step == self.last:
            run = {"identity": self.identity, **record}
            # Ranks agree on files in one order: a save in flight must not come between.
            self.checkpoints.wait()
            save_weights(folder, self.engine.module, run, self.world)
        self.checkpoints.save(
            self.state.step, self.engine.module, self.engine.optimiser, record, wait=wait
        )

    def _result(self, stopped: bool) -> TrainingResult:
        state, folder = self.state, self.options.folder
        pace = tokens_per_second(self.recipe, state)
        note = f"It was stopped after update {state.step} of {self.last}." if stopped else self.note
        skipped = [entry["step"] for entry in state.skipped]
        return TrainingResult(
            observations=tuple(state.observations),
            consumed=consumed_by(self.recipe, self.sampler, state.step, skipped),
            evaluation_tokens=self.validation.tokens,
            seconds=state.seconds,
            tokens_per_second=pace,
            peak_memory_bytes=peak_memory_bytes(self.world.device),
            execution=self.engine.execution,
            weights=None if folder is None or stopped else folder / WEIGHTS,
            ended="stopped" if stopped else "exhausted" if self.note else "done",
            note=note,
            step=state.step,
            skipped=tuple(state.skipped),
            mfu=self.reporter.mfu(pace),
            mfu_formula=MFU_FORMULA.value,
        )
