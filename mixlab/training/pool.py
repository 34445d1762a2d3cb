"""Runs in processes of their own, one per CPU core: what is fastest for small models on CPUs.

Each process has one CPU thread and trains run after run, exactly as `train` does. Processes end
with the one that started them, whatever ends that, and leave signals to it: it asks them to stop
and waits for their checkpoints.
"""

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from mixlab.errors import Diverged, MixlabError
from mixlab.recipes import Recipe
from mixlab.training.loop import train
from mixlab.training.records import TokenCorpus, TrainingProgress
from mixlab.training.stacked.records import Outcome, StackedRun

LOOK_SECONDS = 0.2

_shared: tuple[Any, Any]  # in a process of the pool: the queue of progress, and whether to stop


def train_in_processes(
    recipe: Recipe,
    corpus: TokenCorpus,
    runs: Sequence[StackedRun],
    processes: int,
    *,
    progress: Callable[[int, TrainingProgress], None],
    ended: Callable[[int, Outcome], None],
    stop: Callable[[], bool],
    checkpoint_seconds: float,
) -> None:
    """Train the runs, so many at once; both callbacks get the run's number.

    Runs that have not begun when `stop()` says so never do, and aren't told. Raises what
    `train` raises but Diverged, and MixlabError where a process died.
    """
    context = multiprocessing.get_context("spawn")
    told, stopping = context.Queue(), context.Event()
    with ProcessPoolExecutor(
        processes, mp_context=context, initializer=_begin, initargs=(told, stopping)
    ) as pool:
        waiting = {
            pool.submit(_train, number, recipe, corpus, run, checkpoint_seconds): number
            for number, run in enumerate(runs)
        }
        try:
            while waiting:
                if stop() and not stopping.is_set():
                    stopping.set()
                    waiting = {one: number for one, number in waiting.items() if not one.cancel()}
                done, _ = wait(waiting, LOOK_SECONDS, FIRST_COMPLETED)
                _hand_on(told, progress)
                for one in done:
                    ended(waiting.pop(one), _outcome(one))
        finally:
            stopping.set()
            pool.shutdown(cancel_futures=True)


def _outcome(one: Future[Outcome]) -> Outcome:
    try:
        return one.result()
    except BrokenProcessPool as problem:
        raise MixlabError(
            "A process that trained a run died, perhaps for want of memory; the same command goes "
            "on from the last checkpoints, and fewer processes need less."
        ) from problem


def _hand_on(told: Any, progress: Callable[[int, TrainingProgress], None]) -> None:
    while True:
        try:
            number, now = told.get_nowait()
        except queue.Empty:
            return
        progress(number, now)


def _begin(told: Any, stopping: Any) -> None:
    """Make a process ready: leave signals to the one that started it, and end with it."""
    global _shared
    _shared = told, stopping
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _train(
    number: int, recipe: Recipe, corpus: TokenCorpus, run: StackedRun, checkpoint_seconds: float
) -> Outcome:
    told, stopping = _shared
    try:
        return train(
            run.recipe(recipe), corpus, run.mixture,
            seed=run.seed,
            folder=run.folder,
            progress=lambda now: told.put((number, now)),
            stop=stopping.is_set,
            threads=1,
            checkpoint_seconds=checkpoint_seconds,
        )  # fmt: skip
    except Diverged as problem:
        return problem
