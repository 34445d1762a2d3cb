"""A grown recipe as one run: the small model's run, the growth, the large one's, in one folder.

    <folder>/growth.json            what was asked for, so that nothing else goes on here
    <folder>/small/                 the small model's run, a folder like any run's
    <folder>/small/ended.json       its result, once it has one
    <folder>/grown.safetensors      what the large model begins with
    <folder>/                       the large model's run

Each part goes on where it was killed or stopped, and what is done is not done again. The large run
reads on after the small one's last token (mixlab/training/beginning.py), so that together they read
what one run of the recipe reads. Told are both as one: steps, tokens, observations and what was
consumed count from the small run's first update; each event says its stage.
"""

from dataclasses import asdict, replace

from mixlab.corpora.sampling import Sampler
from mixlab.corpora.shards import TokenisedCorpus
from mixlab.errors import DomainTooSmall, InvalidRecipe
from mixlab.growing.planning import Growth, large_of, small_of
from mixlab.growing.stacking import grow
from mixlab.training.beginning import Beginning
from mixlab.training.data import check_vocabulary, last_step, sampler_of
from mixlab.training.events import Emit, Event
from mixlab.training.parts import Parts, claim, held
from mixlab.training.running import Run, Stop, check_room
from mixlab.training.spec import RunSpec
from mixlab.training.weights import WEIGHTS

ASKED, GROWN, SMALL = "growth.json", "grown.safetensors", "small"


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
    grown = _Grown(spec, growth)
    grown.check(processes)
    grown.claim()
    with held(spec.folder / SMALL):
        return grown.train(Parts(grown.steps, emit=emit, stop=stop, run=run))


class _Grown:
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
        self.steps = self.small_recipe.steps + self.large_recipe.steps

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
        told = {
            "growth": asdict(self.growth),
            "recipe": self.small_recipe.to_dict(), "large_recipe": self.large_recipe.to_dict(),
            "schedule": self.spec.schedule.to_dict(), "seed": self.spec.seed,
            "corpus": self.corpus.fingerprint,
        }  # fmt: skip
        claim(self.spec.folder, ASKED, told, else_holds="that doesn't grow")

    def train(self, parts: Parts) -> Event:
        """Both runs and the growth between them, as far as they are not done."""
        small = parts.train(self.small, "small model")
        if small["event"] == "stopped":
            return parts.end(small)
        parts.stage("growth")
        self._grow()
        if parts.stop():
            return parts.end({**small, "event": "stopped"})
        large = parts.train(self.large, "large model", last=True)
        grown_at = {"step": self.small_recipe.steps, "tokens": self.small_recipe.tokens}
        return parts.end({**large, "grown_at": grown_at})

    def _grow(self) -> None:
        folder = self.spec.folder
        # Of a process that was killed while it wrote.
        for left in folder.glob(f".*-{GROWN}"):
            left.unlink()
        if not (folder / GROWN).is_file():
            growth = self.growth
            grow(folder / SMALL / WEIGHTS, folder / GROWN, growth.factor, growth.operator)
