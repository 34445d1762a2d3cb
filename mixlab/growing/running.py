"""A grown recipe as one run: the small model's run, the growth, the large one's, in one folder.

    <folder>/growth.json            what was asked for, so that nothing else goes on here
    <folder>/small/                 the small model's run, a folder like any run's
    <folder>/small/ended.json       its result, once it has one
    <folder>/grown.safetensors      what the large model begins with
    <folder>/                       the large model's run

Each part goes on where it was killed or stopped, and what is done is not done again. The large run
reads on after the small one's last token (mixlab/training/beginning.py), so that together they read
what one run of the recipe reads. Told are both as one: steps, tokens, observations and what was
consumed count from the small run's first update; each event says its stage, "small" or "large".
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

from mixlab.corpora.files import read_json, write_json
from mixlab.corpora.sampling import Sampler
from mixlab.corpora.shards import TokenisedCorpus
from mixlab.errors import DomainTooSmall, InvalidRecipe
from mixlab.growing.planning import large_of, small_of
from mixlab.growing.stacking import Operator, grow
from mixlab.recipes.shape import whole
from mixlab.training.beginning import Beginning
from mixlab.training.checkpoints.folders import locked
from mixlab.training.checkpoints.keeping import FOLDER
from mixlab.training.data import check_vocabulary, last_step, sampler_of
from mixlab.training.events import Emit, Event
from mixlab.training.parts import Parts
from mixlab.training.running import check_room, run_spec
from mixlab.training.spec import RunSpec
from mixlab.training.weights import WEIGHTS

SPEC, ASKED, ENDED, GROWN, SMALL = (
    "spec.json", "growth.json", "ended.json", "grown.safetensors", "small",
)  # fmt: skip

Stop = Callable[[], bool]
Run = Callable[[RunSpec, Emit, Stop], Event]


@dataclass(frozen=True)
class Growth:
    """How a run grows. Raises InvalidRecipe for numbers that are none, and unknown operators."""

    factor: int  # the large model's layers over the small one's
    tokens: int  # that the small model sees, at least; it ends with the update that reaches them
    operator: Operator = "stack"
    small_learning_rate: float | None = None  # the small run's peak; None is the recipe's

    def __post_init__(self) -> None:
        for name, least in (("factor", 2), ("tokens", 1)):
            value = getattr(self, name)
            if not whole(value, least):
                raise InvalidRecipe(
                    f"A growth's {name} must be a whole number from {least} on, not {value!r}."
                )
        if self.operator not in get_args(Operator):
            raise InvalidRecipe(
                f"Models grow by {', '.join(get_args(Operator))}, not by {self.operator!r}."
            )


def run_grown(
    spec: RunSpec,
    growth: Growth,
    *,
    emit: Emit,
    stop: Stop,
    run: Run | None = None,
    processes: int = 1,
) -> Event:
    """Train what `spec` describes, grown: its recipe is the large model's and of the whole budget.

    `run` trains a part, whose spec lies in its folder, here where none is given; `processes` is
    how many it has. Milestones count over both parts. Returns the last event, "ended", or
    "stopped" with a checkpoint made: the same call goes on from there.

    Raises what `train` raises; before any work InvalidRecipe for a factor that doesn't divide the
    depth, tokens that leave no update to a part, a branch, or a folder of another run, and
    DomainTooSmall where `max_epochs` ends the run before it has grown.
    """
    parts = _Parts(spec, growth)
    parts.check(processes)
    parts.claim()
    with _held(spec.folder / SMALL):
        return parts.train(emit, stop, run or _here)


def _here(spec: RunSpec, emit: Emit, stop: Stop) -> Event:
    return run_spec(spec, emit=emit, stop=stop)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Have the folder for this process alone. Raises InUse where another one has it."""
    lock = locked(folder)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


class _Parts:
    """The two runs of a grown recipe."""

    def __init__(self, spec: RunSpec, growth: Growth) -> None:
        if spec.start is not None or spec.beginning is not None:
            raise InvalidRecipe(
                "A grown run begins with its own small model, so it can't be a branch of another "
                "run or begin with given weights; leave out one of them."
            )
        self.spec = replace(spec, corpus=spec.corpus.absolute(), folder=spec.folder.absolute())
        self.growth = growth
        self.corpus = TokenisedCorpus.open(spec.corpus)
        whole_run = spec.recipe.for_vocabulary(self.corpus.vocabulary)
        self.small_recipe = small_of(
            whole_run, growth.factor, growth.tokens, learning_rate=growth.small_learning_rate
        )
        self.large_recipe = large_of(whole_run, self.small_recipe)

    @property
    def small(self) -> RunSpec:
        """The run before the growth."""
        last = self.small_recipe.steps
        return replace(
            self.spec,
            recipe=self.small_recipe,
            folder=self.spec.folder / SMALL,
            milestones=tuple(step for step in self.spec.milestones if step <= last),
            events=None,
        )

    @property
    def large(self) -> RunSpec:
        """The run after it."""
        before = self.small_recipe.steps
        return replace(
            self.spec,
            recipe=self.large_recipe,
            beginning=Beginning(self.spec.folder / GROWN, self.small_recipe.tokens),
            milestones=tuple(step - before for step in self.spec.milestones if step > before),
            events=None,
        )

    def check(self, processes: int) -> None:
        """Raise now what would end the run after the small one's days."""
        for spec in (self.small, self.large):
            check_vocabulary(spec.recipe, self.corpus)
            _, why = last_step(spec.recipe, self._sampler(spec))
            if spec.beginning is None and why:
                raise DomainTooSmall(
                    f"The small model's run would not get to its growth after update "
                    f"{spec.recipe.steps}. {why} Allow more epochs, or grow earlier."
                )
            check_room(spec.recipe, spec.sharding, processes)

    def _sampler(self, spec: RunSpec) -> Sampler:
        first_token = spec.beginning.tokens if spec.beginning else 0
        return sampler_of(
            spec.recipe, self.corpus, spec.schedule,
            seed=spec.seed, max_epochs=spec.max_epochs, first_token=first_token,
        )  # fmt: skip

    def claim(self) -> None:
        """Say in the folder what is trained there. Raises InvalidRecipe where it is another run."""
        folder = self.spec.folder
        told = {
            "growth": asdict(self.growth),
            "recipe": self.small_recipe.to_dict(), "large_recipe": self.large_recipe.to_dict(),
            "schedule": self.spec.schedule.to_dict(), "seed": self.spec.seed,
            "corpus": self.corpus.fingerprint,
        }  # fmt: skip
        if (folder / ASKED).is_file():
            before, now = read_json(folder / ASKED), json.loads(json.dumps(told))
            other = [name for name in now if before.get(name) != now[name]]
            what = f"with another {' and '.join(other)}" if other else ""
        else:
            what = "that doesn't grow" if (folder / FOLDER).exists() else ""
        if what:
            raise InvalidRecipe(f"{folder} holds a run {what}; give this one a folder of its own.")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / ASKED, told)

    def train(self, emit: Emit, stop: Stop, run: Run) -> Event:
        """Both runs and the growth between them, as far as they are not done."""
        parts = Parts(self.small_recipe.steps + self.large_recipe.steps)
        small = self._small_ended(parts, emit, stop, run)
        if small["event"] == "stopped":
            return _told(parts.ended(small, "small"), emit)
        parts.over(small, self.small_recipe.tokens, "small")
        emit({"event": "stage", "stage": "growth"})
        self._grow()
        if stop():
            return _told({**small, "event": "stopped", "stage": "small"}, emit)
        emit({"event": "stage", "stage": "large"})
        large = self.large
        large.write(large.folder / SPEC)
        ended = run(large, lambda told: parts.tell(told, emit, "large"), stop)
        grown_at = {"step": self.small_recipe.steps, "tokens": self.small_recipe.tokens}
        return _told({**parts.ended(ended, "large"), "grown_at": grown_at}, emit)

    def _small_ended(self, parts: Parts, emit: Emit, stop: Stop, run: Run) -> Event:
        """The small run's last event, of now or of an attempt before."""
        spec = self.small
        file = spec.folder / ENDED
        if file.is_file():
            return read_json(file)
        emit({"event": "stage", "stage": "small"})
        spec.write(spec.folder / SPEC)
        ended = run(spec, lambda told: parts.tell(told, emit, "small"), stop)
        if ended["event"] == "ended":
            write_json(file, ended)
        return ended

    def _grow(self) -> None:
        folder = self.spec.folder
        # Of a process that was killed while it wrote.
        for left in folder.glob(f".*-{GROWN}"):
            left.unlink()
        if not (folder / GROWN).is_file():
            growth = self.growth
            grow(folder / SMALL / WEIGHTS, folder / GROWN, growth.factor, growth.operator)


def _told(event: Event, emit: Emit) -> Event:
    emit(event)
    return event
