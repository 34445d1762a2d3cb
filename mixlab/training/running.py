"""Training what a spec describes, told as events: the same in a process of its own and in ours."""

from collections.abc import Callable

from mixlab.corpora.shards import TokenisedCorpus
from mixlab.recipes import Recipe
from mixlab.training.events import Emit, Event, of_progress, of_result
from mixlab.training.loop import train
from mixlab.training.memory import check_memory
from mixlab.training.parallel import World
from mixlab.training.records import TrainingProgress
from mixlab.training.spec import RunSpec


def run_spec(
    spec: RunSpec, *, emit: Emit, stop: Callable[[], bool], world: World | None = None
) -> Event:
    """Train to the end, or until `stop` says so; `emit` gets progress, observations, the end.

    Returns the last event, "ended" or "stopped". Resumes where the spec's folder has a
    checkpoint. Raises what `train` raises, and NotEnoughMemory before anything is allocated.
    """
    corpus = TokenisedCorpus.open(spec.corpus)
    recipe = spec.recipe.for_vocabulary(corpus.vocabulary)
    world = world or World.alone()
    _check_memory(recipe, spec, world)

    def tell(now: TrainingProgress) -> None:
        for event in of_progress(now):
            emit(event)

    result = train(
        recipe, corpus, spec.schedule,
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


def _check_memory(recipe: Recipe, spec: RunSpec, world: World) -> None:
    """Raise NotEnoughMemory on every rank where one can't hold its part."""
    # What is free decides between the two, so that "auto" needs no more than shards do.
    sharded = spec.sharding == "shard" or (spec.sharding == "auto" and world.device.type == "cuda")
    world.together(lambda: check_memory(recipe, ranks=world.size, sharded=sharded))
