"""What a run tells while it goes: progress to its caller, metrics to its file and trackers.

Only the first rank tells anything. A line of metrics comes with each look at the losses; its
rates are those since the line before, a result's are those of the whole run.
"""

from collections.abc import Mapping
from typing import Any

from mixlab.recipes import Recipe
from mixlab.runs import Observation
from mixlab.training.engine import Engine
from mixlab.training.metrics import Metrics, utilisation
from mixlab.training.optimiser import learning_rate
from mixlab.training.options import Options
from mixlab.training.parallel import World
from mixlab.training.placement import peak_memory_bytes
from mixlab.training.records import TrainingProgress
from mixlab.training.state import RunState
from mixlab.training.trackers import Trackers, check_trackers, opened

PROGRESS_SECONDS = 0.5


class Reporter:
    """Tells of one run. Raises for trackers that can't be had, before any work."""

    def __init__(
        self,
        recipe: Recipe,
        last: int,
        world: World,
        options: Options,
        identity: Mapping[str, Any],
    ) -> None:
        check_trackers(options.trackers, options.folder)
        self.last = last  # updates in all
        self.recipe, self.world, self.options, self.identity = recipe, world, options, identity
        self.metrics = Metrics(options.folder if world.main else None)
        self.trackers = Trackers(())
        self.execution = ""
        self.latest: dict[str, Any] = {}  # the latest line
        self._began = self._reported = 0.0
        self._made = 0  # updates of this attempt
        self._line_at = (0, 0.0)  # step and update_seconds of the latest line

    def begin(self, state: RunState, engine: Engine, now: float) -> None:
        """The run starts, or goes on, from this state."""
        told = self.metrics.rewind(state.step)
        if self.world.main:
            options = self.options
            self.trackers = opened(options.trackers, options.folder, self.identity, told)
        self.execution = engine.execution
        self._began = self._reported = now
        self._line_at = state.step, state.update_seconds

    def rewind(self, state: RunState) -> None:
        """The run has gone back to this state."""
        self.metrics.rewind(state.step)
        self._line_at = state.step, state.update_seconds

    def line(self, state: RunState, found: Observation | None) -> None:
        """Write what was seen since the line before; `found` has just been measured."""
        if not self.world.main:
            return
        self.latest = self._values(state)
        self._line_at = state.step, state.update_seconds
        whole = dict(self.latest)
        if found is not None:
            whole["losses_nats"] = dict(found.losses_nats)
        self.metrics.add(whole)
        flat = {name: float(v) for name, v in self.latest.items() if v is not None}
        losses = {} if found is None else found.losses_nats
        self.trackers.log(
            state.step, flat | {f"loss_nats/{name}": loss for name, loss in losses.items()}
        )

    def _values(self, state: RunState) -> dict[str, Any]:
        since_step, since_seconds = self._line_at
        tokens = self.recipe.tokens_before(state.step + 1)
        new = tokens - self.recipe.tokens_before(since_step + 1)
        pace = new / max(state.update_seconds - since_seconds, 1e-9)
        return {
            "step": state.step,
            "tokens": tokens,
            "train_loss_nats": mean(state.losses),
            "gradient_norm": mean(state.norms),
            "learning_rate": learning_rate(self.recipe, state.step),
            "tokens_per_second": pace,
            "mfu": self.mfu(pace),
            "memory_bytes": peak_memory_bytes(self.world.device),
            "skipped": len(state.skipped),
            "seconds": state.seconds,
        }

    def mfu(self, tokens_per_second: float) -> float | None:
        """The share of the devices' arithmetic that so many tokens per second take."""
        return utilisation(self.recipe, tokens_per_second, self.world.device, self.world.size)

    def progress(self, state: RunState, found: Observation | None, now: float) -> None:
        """Tell the caller, a few times a second at most; of an evaluation always."""
        self._made += 1
        tell = self.options.progress
        if tell is None or not self.world.main:
            return
        if found is not None or now - self._reported >= PROGRESS_SECONDS:
            self._reported = now
            tell(self._progress(state, found, (now - self._began) / self._made))

    def _progress(
        self, state: RunState, found: Observation | None, seconds_per_step: float
    ) -> TrainingProgress:
        return TrainingProgress(
            step=state.step,
            steps=self.last,
            train_loss_nats=self.latest.get("train_loss_nats"),
            tokens_per_second=tokens_per_second(self.recipe, state),
            eta_seconds=seconds_per_step * (self.last - state.step),
            observation=found,
            tokens=self.recipe.tokens_before(state.step + 1),
            learning_rate=learning_rate(self.recipe, max(1, state.step)),
            gradient_norm=self.latest.get("gradient_norm"),
            mfu=self.latest.get("mfu"),
            memory_bytes=self.latest.get("memory_bytes"),
            skipped=len(state.skipped),
            execution=self.execution,
        )

    def close(self) -> None:
        """Let the trackers write what is left."""
        self.trackers.close()


def mean(values: list[float]) -> float | None:
    """None of nothing."""
    return sum(values) / len(values) if values else None


def tokens_per_second(recipe: Recipe, state: RunState) -> float:
    """Of the run's own updates, without evaluations."""
    tokens = recipe.tokens_before(state.step + 1) - recipe.tokens_before(state.begun_at + 1)
    return tokens / max(state.update_seconds, 1e-9)
