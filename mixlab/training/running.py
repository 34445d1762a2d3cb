"""Training what a spec describes, told as events: the same in a process of its own and in ours."""

from collections.abc import Callable

from mixlab.corpora.shards import TokenisedCorpus
from mixlab.training.events import Emit, Event, of_progress, of_result
from mixlab.training.loop import train
from mixlab.training.memory import check_memory
from mixlab.training.records import TrainingProgress
from mixlab.training.spec import RunSpec


def run_spec(spec: RunSpec, *, emit: Emit, stop: Callable[[], bool]) -> Event:
    """Train to the end, or until `stop` says so; `emit` gets progress, observations, the end.

    Returns the last event, "ended" or "stopped". Resumes where the spec's folder has a
    checkpoint. Raises what `train` raises, and NotEnoughMemory before anything is allocated.
    """
    corpus = TokenisedCorpus.open(spec.corpus)
    recipe = spec.recipe.for_vocabulary(corpus.vocabulary)
    check_memory(recipe)

    def tell(now: TrainingProgress) -> None:
        for event in of_progress(now):
            emit(event)

    result = train(
        recipe, corpus, spec.schedule.stages[0].mixture,
        seed=spec.seed,
        folder=spec.folder,
        progress=tell,
        threads=spec.threads,
        checkpoint_seconds=spec.checkpoint_seconds,
    )  # fmt: skip
    last = of_result(result)
    emit(last)
    return last
