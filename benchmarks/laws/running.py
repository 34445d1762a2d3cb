"""Tasks on a pool of processes: one protocol, one contender and one seed each."""

import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from time import perf_counter

from benchmarks.laws.contenders import contenders
from benchmarks.laws.protocols import PROTOCOLS, CanNot, Rows

Task = tuple[str, str, int]  # protocol, contender, seed
Cells = dict[str, dict[str, list[dict[str, float]]]]  # row to contender to seeds


Failures = dict[tuple[str, str], list[str]]  # (contender, why) to protocols


def run(tasks: Sequence[Task], folder: Path, workers: int) -> tuple[Cells, Failures]:
    """Every task's rows, gathered by row and contender, and why some have none."""
    rows: dict[Task, Rows] = {}
    failures: Failures = {}
    # Spawned, so that no library's threads are forked.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures: dict[Future[tuple[Rows, float]], Task] = {
            pool.submit(work, task, folder): task for task in tasks
        }
        for done, future in enumerate(as_completed(futures), start=1):
            task, error = futures[future], future.exception()
            if error is None:
                rows[task], seconds = future.result()
                said = f"{seconds:.1f} s"
            else:
                said = (
                    str(error) if isinstance(error, CanNot) else f"{type(error).__name__}: {error}"
                )
                protocols = failures.setdefault((task[1], said), [])
                protocols += [] if task[0] in protocols else [task[0]]
            say(f"[{done}/{len(tasks)}] {task[0]} {task[1]} seed {task[2]}: {said}")
    return _gathered(tasks, rows), failures


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
