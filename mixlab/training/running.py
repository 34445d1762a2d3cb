"""Training what a spec describes, told as events: the same in a process of its own and in ours."""

from collections.abc import Callable

from mixlab.corpora.drawn import DrawnCorpus, DrawnSet
from mixlab.corpora.shards import TokenisedCorpus
from mixlab.recipes import Recipe
from mixlab.training.events import Emit, Event, of_progress, of_result
from mixlab.training.loop import train
from mixlab.training.memory import check_memory
from mixlab.training.parallel import Sharding, World
from mixlab.training.placement import chosen_device
from mixlab.training.records import TokenCorpus, TrainingProgress
from mixlab.training.spec import RunSpec
from mixlab.training.weights import rows_in


def _recipe(spec: RunSpec, corpus: TokenisedCorpus) -> Recipe:
    """The spec's, with a table for the corpus's tokens, or that of the weights it begins with."""
    rows = None if spec.beginning is None else rows_in(spec.beginning.weights)
    if rows is None:
        return spec.recipe.for_vocabulary(corpus.vocabulary)
    return spec.recipe.for_tables(rows, vocabulary=corpus.vocabulary)


Stop = Callable[[], bool]
Run = Callable[[RunSpec, Emit, Stop], Event]


def run_spec(spec: RunSpec, *, emit: Emit, stop: Stop, world: World | None = None) -> Event:
    """Train to the end, or until `stop` says so; `emit` gets progress, observations, the end.

    Returns the last event, "ended" or "stopped". Resumes where the spec's folder has a
    checkpoint. Raises what `train` raises, and NotEnoughMemory before anything is allocated.
    """
    corpus = TokenisedCorpus.open(spec.corpus)
    recipe = _recipe(spec, corpus)
    world = world or World.alone()
    world.together(lambda: check_room(recipe, spec.sharding, world.size))

    def tell(now: TrainingProgress) -> None:
        for event in of_progress(now):
            emit(event)

    result = train(
        recipe, _text(corpus, spec, recipe), spec.schedule,
        seed=spec.seed,
        folder=spec.folder,
        progress=tell,
        threads=spec.threads,
        checkpoint_seconds=spec.checkpoint_seconds,
        keep_last=spec.keep_last,
        milestones=spec.milestones,
        max_epochs=spec.max_epochs,
        world=world,
        stop=stop,
        start=spec.start,
        beginning=spec.beginning,
        trackers=spec.trackers,
    )  # fmt: skip
    last = of_result(result)
    emit(last)
    return last


def check_room(recipe: Recipe, sharding: Sharding, processes: int) -> None:
    """Raise NotEnoughMemory where one of so many processes can't hold its part of a run."""
    # What is free decides between the two, so that "auto" needs no more than shards do.
    sharded = sharding == "shard" or (sharding == "auto" and chosen_device().type == "cuda")
    check_memory(recipe, ranks=processes, sharded=sharded)


def _text(corpus: TokenisedCorpus, spec: RunSpec, recipe: Recipe) -> TokenCorpus:
    """What the run trains on: the corpus, or what was drawn of it."""
    if spec.drawn is None:
        return corpus
    return DrawnCorpus(corpus, DrawnSet.read(spec.drawn), context=recipe.architecture.context)
