"""Guards: updates that would harm a run, and what is done about them.

An update is anomalous where

    its loss or the norm of its gradient is no finite number, or
    its loss > median of the last 50 sound losses + spike_nats      (once there are 10 of them)

"fail"       the run ends, as a person has to look.
"skip"       the update is left out: weights and optimiser stay as they were, the step counts.
             Ten in a row end the run, for then it isn't the batch.
"roll_back"  the run goes back and leaves out the anomalous update and the seven before it,
             because a spike is the work of updates before it: PaLM went back 100 steps and
             left out the batches around the spike (arXiv 2204.02311, section 5.1). At most five
             times.

All three see the same numbers on every rank. "skip" has to know before it updates, which costs
one wait for the device a step; the others look back every few steps and cost none.
Steps left out are part of a run's record, so a resumed run leaves out the same ones.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

from mixlab.errors import Diverged
from mixlab.recipes import Recipe

LOSSES_REMEMBERED = 50
LOSSES_NEEDED = 10
SKIPS_IN_A_ROW = 10
ROLL_BACKS = 5
STEPS_ROLLED_BACK = 8
# A model that knows nothing has ln(vocabulary); one nat worse is no training any more.
DIVERGENCE_MARGIN_NATS = 1.0

LOSS = "training loss"
GRADIENT = "norm of the training loss gradient"


@dataclass(frozen=True)
class Anomaly:
    """What was wrong with one update."""

    step: int
    what: str
    value: float
    usual: float | None = None  # what the loss was to be compared with, of a spike

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; JSON has no word for what is no number, so that is a string."""
        value = self.value if math.isfinite(self.value) else str(self.value)
        return {"step": self.step, "what": self.what, "value": value}

    def __str__(self) -> str:
        above = "" if self.usual is None else f", where the latest ones have {self.usual:.4g}"
        return f"the {self.what} is {self.value:.4g} at step {self.step}{above}"


class Guard:
    """Watches one run's losses; `recent` are the sound ones it remembers."""

    def __init__(self, recipe: Recipe, recent: Iterable[float] = ()) -> None:
        self.recipe = recipe
        self.recent = deque(recent, maxlen=LOSSES_REMEMBERED)

    def anomaly(self, step: int, loss: float, norm: float) -> Anomaly | None:
        """What is wrong with the update, None where nothing is; a sound loss is remembered."""
        if not math.isfinite(loss):
            return Anomaly(step, LOSS, loss)
        if not math.isfinite(norm):
            return Anomaly(step, GRADIENT, norm)
        limit = self.recipe.spike_nats
        if limit is not None and len(self.recent) >= LOSSES_NEEDED:
            usual = median(self.recent)
            if loss > usual + limit:
                return Anomaly(step, LOSS, loss, usual)
        self.recent.append(loss)
        return None

    def check_mean(self, step: int, loss: float) -> None:
        """Raise Diverged where losses are worse than those of a model that knows nothing."""
        warm = step > self.recipe.warmup_steps
        if not math.isfinite(loss) or (warm and loss > self._ignorance + DIVERGENCE_MARGIN_NATS):
            raise self.diverged(Anomaly(step, LOSS, loss))

    @property
    def _ignorance(self) -> float:
        return math.log(self.recipe.architecture.vocabulary)

    def diverged(self, found: Anomaly, *, tried: str = "") -> Diverged:
        """The error that ends the run; `tried` says what was done before giving up."""
        recipe = self.recipe
        spike = (
            "" if found.usual is None else f", or raise spike_nats (it is {recipe.spike_nats:g})"
        )
        return Diverged(
            f"{recipe.name} diverged: {found} of {recipe.steps}{tried}, where knowing nothing has "
            f"{self._ignorance:.2f} nats; lower the learning rate (it is "
            f"{recipe.learning_rate:g}) or lengthen the warm-up{spike}."
        )


def left_out(found: Anomaly, first: int) -> dict[int, dict[str, Any]]:
    """The updates from `first` to the anomaly, which a roll-back leaves out, and why."""
    before = {
        step: {"step": step, "what": f"rolled back with step {found.step}", "value": None}
        for step in range(first, found.step)
    }
    return {**before, found.step: found.to_dict()}
