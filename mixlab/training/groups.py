"""Many runs of one recipe, trained in the way that was measured to be fastest here (planning.py).

    stacked       programs of several runs each, one after another (mixlab/training/stacked)
    processes     one per CPU core, each with one run or a stack after another (pool.py)
    one by one    on the whole device

Each run's folder is that of a solo run, so a group that was killed goes on with whatever it has:
runs that are done are only read, runs that have diverged are told again, and the others are
stacked with those that have come as far as they have.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import torch

from mixlab.errors import Diverged
from mixlab.recipes import Recipe
from mixlab.runs import Observation
from mixlab.schedules import MixtureSchedule
from mixlab.training.checkpoints.folders import steps_in
from mixlab.training.checkpoints.keeping import FOLDER
from mixlab.training.placement import chosen_device
from mixlab.training.planning import Plan, choose
from mixlab.training.pool import train_alone, train_in_processes
from mixlab.training.records import TokenCorpus, TrainingResult
from mixlab.training.stacked import GroupProgress, Outcome, StackedRun, train_stacked
from mixlab.training.stacked.member import divergence_in, write_divergence
from mixlab.training.state import identity_of

__all__ = ["GroupProgress", "Outcome", "StackedRun", "train_group"]

Progress = Callable[[GroupProgress], None]


def train_group(
    recipe: Recipe,
    corpus: TokenCorpus,
    runs: Sequence[StackedRun],
    *,
    plan: Plan | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
    threads: int | None = None,
    checkpoint_seconds: float = 30.0,
) -> list[Outcome]:
    """Train all runs as the plan says, and give what became of each, in their order.

    Without a plan one is made of what is left to do, in some seconds (planning.choose). A run
    that diverges is told as Diverged. Once `stop()` says so, what is under way writes its
    checkpoint, and all that isn't done has ended as "stopped"; the same call goes on from there
    where runs have folders. Raises what `train` and `train_stacked` raise before an update.
    """
    group = _Group(recipe, corpus, runs, progress, stop or _never, threads, checkpoint_seconds)
    left = group.read_finished()
    if left:
        plan = plan or choose(recipe, len(left))
        group.train(left, plan)
    return [group.outcomes[place] for place in range(len(runs))]


def unfinished(recipe: Recipe, corpus: TokenCorpus, runs: Sequence[StackedRun]) -> list[int]:
    """The places of runs that are neither done nor known to diverge, by their folders."""
    return [
        place
        for place, run in enumerate(runs)
        if _step(run) < recipe.steps
        and divergence_in(run.folder, _identity(recipe, corpus, run)) is None
    ]


class _Group:
    def __init__(
        self, recipe: Recipe, corpus: TokenCorpus, runs: Sequence[StackedRun],
        progress: Progress | None, stop: Callable[[], bool], threads: int | None,
        checkpoint_seconds: float,
    ) -> None:  # fmt: skip
        self.recipe, self.corpus, self.runs = recipe, corpus, runs
        self.progress, self.stop, self.threads = progress, stop, threads
        self.checkpoint_seconds = checkpoint_seconds
        self.device = chosen_device()
        self.outcomes: dict[int, Outcome] = {}
        self.fractions = [0.0] * len(runs)  # of each run's updates

    def read_finished(self) -> list[int]:
        """Take the outcomes of runs that have ended before; the places of the others."""
        left = unfinished(self.recipe, self.corpus, self.runs)
        for place in sorted(set(range(len(self.runs))) - set(left)):
            run = self.runs[place]
            diverged = divergence_in(run.folder, _identity(self.recipe, self.corpus, run))
            self._ended(place, diverged or self._solo(place))
        return left

    def train(self, places: list[int], plan: Plan) -> None:
        """Train the runs at these places."""
        self.device = torch.device(plan.device)
        if plan.way == "processes":
            self._in_processes(places, plan)
            return
        for some in self._stacks(places, plan.stack):
            if self.stop():
                self._not_begun(some)
            elif plan.way == "stacked":
                self._stacked(some)
            else:
                self._ended(some[0], self._solo(some[0]))

    def _stacks(self, places: list[int], size: int) -> Iterator[list[int]]:
        """Places of runs that go together: those that are equally far, the furthest first."""
        by_step: defaultdict[int, list[int]] = defaultdict(list)
        for place in places:
            by_step[_step(self.runs[place])].append(place)
        for _, equal in sorted(by_step.items(), reverse=True):
            for first in range(0, len(equal), size):
                yield equal[first : first + size]

    def _stacked(self, places: list[int]) -> None:
        def tell(now: GroupProgress) -> None:
            whose = None if now.run is None else places[now.run]
            self._tell(places, now.fraction, now.tokens_per_second, whose, now.observation)

        found = train_stacked(
            self.recipe, self.corpus, [self.runs[place] for place in places],
            progress=tell,
            stop=self.stop,
            threads=self.threads,
            checkpoint_seconds=self.checkpoint_seconds,
            device=self.device,
        )  # fmt: skip
        for place, outcome in zip(places, found, strict=True):
            self._ended(place, outcome)

    def _solo(self, place: int) -> Outcome:
        def tell(now: GroupProgress) -> None:
            whose = None if now.run is None else place
            self._tell([place], now.fraction, now.tokens_per_second, whose, now.observation)

        return train_alone(
            self.recipe, self.corpus, self.runs[place], tell, self.stop, self.checkpoint_seconds,
            threads=self.threads, device=self.device,
        )  # fmt: skip

    def _in_processes(self, places: list[int], plan: Plan) -> None:
        stacks = list(self._stacks(places, plan.stack))
        rates: dict[int, float] = {}

        def tell(number: int, now: GroupProgress) -> None:
            some = stacks[number]
            rates[number] = now.tokens_per_second
            whose = None if now.run is None else some[now.run]
            self._tell(some, now.fraction, sum(rates.values()), whose, now.observation)

        def ended(number: int, outcomes: list[Outcome]) -> None:
            rates.pop(number, None)
            for place, outcome in zip(stacks[number], outcomes, strict=True):
                self._ended(place, outcome)

        train_in_processes(
            self.recipe, self.corpus, [[self.runs[place] for place in some] for some in stacks],
            plan.processes,
            progress=tell,
            ended=ended,
            stop=self.stop,
            checkpoint_seconds=self.checkpoint_seconds,
        )  # fmt: skip
        self._not_begun([place for place in places if place not in self.outcomes])

    def _ended(self, place: int, outcome: Outcome) -> None:
        if isinstance(outcome, Diverged):
            run = self.runs[place]
            write_divergence(run.folder, _identity(self.recipe, self.corpus, run), outcome)
        self.outcomes[place] = outcome
        self.fractions[place] = 1.0

    def _not_begun(self, places: Sequence[int]) -> None:
        for place in places:
            self.outcomes[place] = TrainingResult(
                observations=(), consumed=(), evaluation_tokens={}, seconds=0.0,
                tokens_per_second=0.0, peak_memory_bytes=0, execution="not begun", weights=None,
                ended="stopped", note="The group was stopped before this run's turn.",
                step=_step(self.runs[place]),
            )  # fmt: skip

    def _tell(
        self, places: Sequence[int], fraction: float, rate: float, run: int | None,
        observation: Observation | None,
    ) -> None:  # fmt: skip
        for place in places:
            self.fractions[place] = fraction
        if self.progress is None:
            return
        left = sum(1 - one for one in self.fractions)
        self.progress(
            GroupProgress(
                fraction=sum(self.fractions) / len(self.fractions),
                tokens_per_second=rate,
                eta_seconds=left * self.recipe.tokens / max(rate, 1e-9),
                run=run,
                observation=observation,
            )
        )


def _step(run: StackedRun) -> int:
    """The update after which the run has its newest checkpoint; 0 where it has none."""
    return 0 if run.folder is None else max(steps_in(run.folder / FOLDER), default=0)


def _identity(recipe: Recipe, corpus: TokenCorpus, run: StackedRun) -> dict[str, object]:
    schedule = MixtureSchedule.of(run.mixture)
    return identity_of(run.recipe(recipe), schedule, seed=run.seed, corpus=corpus.fingerprint)


def _never() -> bool:
    return False
