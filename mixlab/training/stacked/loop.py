"""The loop of stacked runs: every update is one of each run, and every run is as it is alone.

    for step in 1 .. steps:  batches (run, sequence, place) -> losses (run,) -> gradients
                             -> clip each run -> AdamW with each run's rate
                             at evaluation steps: every run's validation losses, one by one

Products are batched over runs (decoder.py), everything else is elementwise or a row of one run,
so no number passes from one run to another. A run whose loss or gradient is no number is left
out of that update and of all later ones before anyone has looked, and the others are what they
would be without it to the last bit. Evaluations need no batching: one run's windows fill a
device, and the code is that of a run alone.

Why it pays on a GPU: a tiny model's step is hundreds of kernels that each take less time than
their launch; a stack launches as many for all its runs. Where one run fills the device, as a
large batch or a large vocabulary does, there is nothing to gain: planning.py measures it.

Limits: one process and one device; all runs take the same number of steps; a recipe that rolls
back is trained run by run, since one run of a stack can't go back alone; no branches, no
limit of epochs.
"""

import time
from collections.abc import Callable, Sequence

import torch

from mixlab.errors import InvalidRecipe
from mixlab.recipes import Recipe
from mixlab.training.allocation import hold_memory
from mixlab.training.data import check_vocabulary, validation_of
from mixlab.training.parallel import World
from mixlab.training.placement import (
    autocast,
    chosen_device,
    deterministic,
    eagerly,
    micro_batch,
    peak_memory_bytes,
)
from mixlab.training.records import TokenCorpus
from mixlab.training.stacked.engine import StackedEngine
from mixlab.training.stacked.member import Member
from mixlab.training.stacked.records import GroupProgress, Outcome, StackedRun
from mixlab.training.stacked.watching import Watch

Progress = Callable[[GroupProgress], None]

LOOK_EVERY_STEPS = 10  # reading a loss waits for the device
PROGRESS_SECONDS = 0.5
# A stack writes a checkpoint for each run, and spends at most so much of its time on them.
CHECKPOINT_SHARE = 0.05


def train_stacked(
    recipe: Recipe,
    corpus: TokenCorpus,
    runs: Sequence[StackedRun],
    *,
    progress: Progress | None = None,
    threads: int | None = None,
    checkpoint_seconds: float = 30.0,
    keep_last: int = 2,
    stop: Callable[[], bool] | None = None,
    device: torch.device | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> list[Outcome]:
    """Train all runs as one program, and give what became of each, in their order.

    A run that diverges is told as Diverged with its step, and the others go on. With folders,
    checkpoints are kept there at least every `checkpoint_seconds` (or 20 times what writing
    them takes, if that is longer), and a group that was killed, or stopped by `stop`, goes on
    from the newest step that all its runs have. A result's seconds are the run's share of the
    stack's.

    Raises InvalidRecipe for a recipe that rolls back and for folders that some runs lack or
    share, and what `mixlab.training.train` raises before its first update.
    """
    _check(recipe, corpus, runs)
    world = World.alone(device or chosen_device())
    with deterministic(world.device, threads), hold_memory():
        stack = _Stack(recipe, corpus, runs, world, keep_last, clock)
        with stack.engine.batches:
            return stack.to_its_end(progress or _silent, checkpoint_seconds, stop or _never)


class _Stack:
    """Runs between their first and last update."""

    def __init__(
        self, recipe: Recipe, corpus: TokenCorpus, runs: Sequence[StackedRun], world: World,
        keep_last: int, clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self.recipe, self.world, self.clock = recipe, world, clock
        streams = {name: corpus.stream(name, "train") for name in corpus.domains}
        self.members = [
            Member(run, recipe, streams, corpus.fingerprint, world, keep_last) for run in runs
        ]
        self.validation = validation_of(recipe, corpus)
        self.engine = StackedEngine(
            recipe, streams, [(run.mixture, run.seed) for run in runs], world.device
        )
        for place, member in enumerate(self.members):
            member.bind(self.engine.decoder, self.engine.optimiser, place)
        self.watch = Watch(recipe, self.members)
        self.step = 0
        self.update_seconds = 0.0  # of this attempt, of the whole stack

    def to_its_end(
        self, progress: Progress, checkpoint_seconds: float, stop: Callable[[], bool]
    ) -> list[Outcome]:
        """Resume where checkpoints are, do the remaining updates, and sum up."""
        self._resume()
        if self._going():
            self.engine.compile()
        began = told = saved = self.clock()
        first, cost, stopped = self.step, 0.0, False
        while self._going() and not stopped:
            self._update()
            if self.step in self.recipe.evaluation_steps:
                self._evaluate(lambda **seen: progress(self._progress(began, first, **seen)))
                told = self.clock()
            elif self.clock() - told >= PROGRESS_SECONDS:
                progress(self._progress(began, first))
                told = self.clock()
            stopped, now = stop(), self.clock()
            due = now - saved >= max(checkpoint_seconds, cost / CHECKPOINT_SHARE)
            if due or stopped or not self._going():
                self._save()
                saved = self.clock()
                cost = saved - now
        return self._outcomes()

    def _going(self) -> bool:
        return self.step < self.recipe.steps and any(one.error is None for one in self.members)

    def _update(self) -> None:
        """One weight update of every run."""
        began = self.clock()
        self.step += 1
        losses, norms = self.engine.gradients(self.step)
        sound = self.watch.sound(self.step, losses, norms)
        self.engine.apply([member.rate(self.step) for member in self.members], norms, sound)
        for member in self.members:
            member.state.step = self.step
        if self.step % LOOK_EVERY_STEPS == 0 or self.step in self.recipe.evaluation_steps:
            self.watch.look(self.step)
        seconds = self.clock() - began
        self.update_seconds += seconds
        self._share(seconds, of_updates=True)

    def _evaluate(self, tell: Callable[..., None]) -> None:
        """Measure every run, and tell of each observation."""
        for place, member in enumerate(self.members):
            if member.error is None:
                began = self.clock()
                losses = self._losses_of(member)
                self._share(self.clock() - began)
                if self.watch.measured(self.step, place, losses):
                    seen = member.observe(self.step, losses)
                    member.state.observations.append(seen)
                    tell(run=place, observation=seen)

    def _losses_of(self, member: Member) -> dict[str, float]:
        device = self.world.device
        with eagerly(self.engine.execution), autocast(device, self.recipe.precision):
            return self.validation.losses(
                lambda tokens: member.module(tokens, each=True),
                self.world,
                sequences=micro_batch(self.recipe, device),
            )

    def _share(self, seconds: float, *, of_updates: bool = False) -> None:
        """Every run bears its part of the stack's time, so that runs' seconds add up to it."""
        for member in self.members:
            member.state.seconds += seconds / len(self.members)
            if of_updates:
                member.state.update_seconds += seconds / len(self.members)

    def _progress(self, began: float, first: int, **seen: object) -> GroupProgress:
        done = self.step - first
        left = self.recipe.steps - self.step
        before = self.recipe.tokens_before
        tokens = (before(self.step + 1) - before(first + 1)) * len(self.members)
        return GroupProgress(
            fraction=self.step / self.recipe.steps,
            tokens_per_second=tokens / max(self.update_seconds, 1e-9),
            eta_seconds=(self.clock() - began) / max(done, 1) * left,
            **seen,  # type: ignore[arg-type]
        )

    def _resume(self) -> None:
        """Go on from the newest checkpoint that all runs have but those left behind."""
        live = [member for member in self.members if member.error is None]
        # All of them before anything is removed from one.
        for member in live:
            member.check()
        common = set.intersection(*(member.steps() for member in live)) if live else set()
        self.step = max(common, default=0)
        for member in live:
            if common:
                member.load(self.step)
            else:
                member.start_over()
        self.watch.begin()

    def _save(self) -> None:
        self.watch.read()
        began = self.clock()
        for member in self.members:
            if member.error is None:
                member.save()
        self._share(self.clock() - began)

    def _outcomes(self) -> list[Outcome]:
        device = self.world.device
        execution = f"{device.type}, {self.engine.execution}, {len(self.members)} runs stacked"
        tokens, peak = self.validation.tokens, peak_memory_bytes(device)
        return [member.outcome(tokens, peak, execution) for member in self.members]


def _check(recipe: Recipe, corpus: TokenCorpus, runs: Sequence[StackedRun]) -> None:
    if not runs:
        raise InvalidRecipe("A stack needs at least one run; none was given.")
    if recipe.on_anomaly == "roll_back":
        raise InvalidRecipe(
            f"{recipe.name} rolls back, which one run of a stack can't do alone; set on_anomaly to "
            '"fail" or "skip", or train its runs one by one.'
        )
    folders = {run.folder for run in runs}
    if folders != {None} and (None in folders or len(folders) < len(runs)):
        raise InvalidRecipe("Give every run of a stack a folder of its own, or none any.")
    check_vocabulary(recipe, corpus)


def _silent(_: GroupProgress) -> None:
    pass


def _never() -> bool:
    return False
