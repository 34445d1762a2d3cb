"""Runs in processes, one per CPU core: what is fastest for small models on CPUs.

Each process has one CPU thread and trains one run after another as `train` does, or one small
stack after another as `train_stacked` does. Processes end with the one that started them,
whatever ends that, and leave signals to it: it asks them to stop and waits for their checkpoints.
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

import torch

from mixlab.errors import Diverged, MixlabError
from mixlab.recipes import Recipe
from mixlab.training.loop import train
from mixlab.training.parallel import World
from mixlab.training.records import TokenCorpus, TrainingProgress
from mixlab.training.stacked import GroupProgress, Outcome, StackedRun, train_stacked

LOOK_SECONDS = 0.2

_shared: tuple[Any, Any]  # in a process of the pool: the queue of progress, and whether to stop


def train_in_processes(
    recipe: Recipe,
    corpus: TokenCorpus,
    stacks: Sequence[Sequence[StackedRun]],
    processes: int,
    *,
    progress: Callable[[int, GroupProgress], None],
    ended: Callable[[int, list[Outcome]], None],
    stop: Callable[[], bool],
    checkpoint_seconds: float,
) -> None:
    """Train the stacks, so many at once; both callbacks get the stack's number.

    What has not begun when `stop()` says so never does, and isn't told. Raises what
    `train` raises but Diverged, and MixlabError where a process died.
    """
    context = multiprocessing.get_context("spawn")
    told, stopping = context.Queue(), context.Event()
    with ProcessPoolExecutor(
        processes, mp_context=context, initializer=_begin, initargs=(told, stopping)
    ) as pool:
        waiting = {
            pool.submit(_train, number, recipe, corpus, runs, checkpoint_seconds): number
            for number, runs in enumerate(stacks)
        }
        try:
            while waiting:
                if stop() and not stopping.is_set():
                    stopping.set()
                    waiting = {one: number for one, number in waiting.items() if not one.cancel()}
                done, _ = wait(waiting, LOOK_SECONDS, FIRST_COMPLETED)
                _hand_on(told, progress)
                for one in done:
                    ended(waiting.pop(one), _outcomes(one))
        finally:
            stopping.set()
            pool.shutdown(cancel_futures=True)


def _outcomes(one: Future[list[Outcome]]) -> list[Outcome]:
    try:
        return one.result()
    except BrokenProcessPool as problem:
        raise MixlabError(
            "A process that trained a run died, perhaps for want of memory; the same command goes "
            "on from the last checkpoints, and fewer processes need less."
        ) from problem


def _hand_on(told: Any, progress: Callable[[int, GroupProgress], None]) -> None:
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
    number: int, recipe: Recipe, corpus: TokenCorpus, runs: Sequence[StackedRun],
    checkpoint_seconds: float,
) -> list[Outcome]:  # fmt: skip
    told, stopping = _shared

    def tell(now: GroupProgress) -> None:
        told.put((number, now))

    if len(runs) > 1:
        return train_stacked(
            recipe, corpus, runs,
            progress=tell,
            stop=stopping.is_set,
            threads=1,
            checkpoint_seconds=checkpoint_seconds,
            device=torch.device("cpu"),
        )  # fmt: skip
    return [train_alone(recipe, corpus, runs[0], tell, stopping.is_set, checkpoint_seconds)]


def train_alone(
    recipe: Recipe, corpus: TokenCorpus, run: StackedRun, tell: Callable[[GroupProgress], None],
    stop: Callable[[], bool], checkpoint_seconds: float, *, threads: int | None = 1,
    device: torch.device | None = None,
) -> Outcome:  # fmt: skip
    """One run of a group by `train`, told as a group's; by default on one thread of the CPU."""

    def told(now: TrainingProgress) -> None:
        which = None if now.observation is None else 0
        done = now.step / now.steps
        tell(GroupProgress(done, now.tokens_per_second, now.eta_seconds, which, now.observation))

    try:
        return train(
            run.recipe(recipe), corpus, run.mixture,
            seed=run.seed,
            folder=run.folder,
            progress=told,
            stop=stop,
            threads=threads,
            checkpoint_seconds=checkpoint_seconds,
            world=World.alone(device or torch.device("cpu")),
        )  # fmt: skip
    except Diverged as problem:
        return problem
