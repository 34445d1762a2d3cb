"""Tasks on a pool of processes: one protocol, one contender and one seed each."""

import multiprocessing
import sys
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from time import perf_counter

from benchmarks.laws.contenders import contenders
from benchmarks.laws.protocols import PROTOCOLS, CanNot, Rows

Task = tuple[str, str, int]  # protocol, contender, seed
Cells = dict[str, dict[str, list[dict[str, float]]]]  # row to contender to seeds


Failures = dict[tuple[str, str], list[str]]  # (contender, why) to protocols


def run(
    tasks: Sequence[Task], folder: Path, *, workers: int, minutes: float
) -> tuple[Cells, Failures]:
    """Every task's rows, gathered by row and contender, and why some have none.

    No task is started after so many minutes: their order decides what is left out.
    """
    rows: dict[Task, Rows] = {}
    failures: Failures = {}
    until = perf_counter() + 60 * minutes
    waiting, running = deque(tasks), dict[Future[tuple[Rows, float]], Task]()
    # Spawned, so that no library's threads are forked.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        while waiting or running:
            if perf_counter() > until and waiting:
                _put_off(waiting, failures, minutes)
            while waiting and len(running) < workers:
                task = waiting.popleft()
                running[pool.submit(work, task, folder)] = task
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                said = _taken(future, task, rows, failures)
                say(f"[{len(waiting)} to go] {task[0]} {task[1]} seed {task[2]}: {said}")
    return _gathered(tasks, rows), failures


def _taken(
    future: Future[tuple[Rows, float]],
    task: Task,
    rows: dict[Task, Rows],
    failures: Failures,
) -> str:
    """Keep a task's rows, or why there are none; in words what became of it."""
    error = future.exception()
    if error is None:
        rows[task], seconds = future.result()
        return f"{seconds:.1f} s"
    said = str(error) if isinstance(error, CanNot) else f"{type(error).__name__}: {error}"
    _fail(failures, task[1], task[0], said)
    return said


def _put_off(waiting: deque[Task], failures: Failures, minutes: float) -> None:
    for key, name, seed in waiting:
        said = f"not started within {minutes:g} minutes"
        _fail(failures, name, f"{key} seed {seed}", said)
    waiting.clear()


def _fail(failures: Failures, contender: str, protocol: str, said: str) -> None:
    names = failures.setdefault((contender, said), [])
    names += [] if protocol in names else [protocol]


def work(task: Task, folder: Path) -> tuple[Rows, float]:
    """One task's rows and seconds, in a process of the pool."""
    key, name, seed = task
    start = perf_counter()
    return PROTOCOLS[key].run(contenders()[name], folder, seed), perf_counter() - start


def say(line: str) -> None:
    """Progress, on standard error."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _gathered(tasks: Sequence[Task], rows: dict[Task, Rows]) -> Cells:
    cells: Cells = {}
    for task in tasks:
        for name, scores in rows.get(task, {}).items():
            cells.setdefault(name, {}).setdefault(task[1], []).append(scores)
    return cells
