"""How many runs each way to choose them needs: `python -m benchmarks.design [DIR]`.

Without DIR, the folder of the public tables, only the simulated worlds are run. Writes
benchmarks/results/design.md and docs/images/regret.svg.
"""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import argparse  # noqa: E402
import sys  # noqa: E402
from collections import defaultdict  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from concurrent.futures import ProcessPoolExecutor, as_completed  # noqa: E402
from pathlib import Path  # noqa: E402
from time import perf_counter  # noqa: E402
from typing import Any  # noqa: E402

from benchmarks.design import pool, simulated  # noqa: E402
from benchmarks.design.truths import WORLDS  # noqa: E402
from benchmarks.design.writing import Paths, document, picture  # noqa: E402

ROOT = Path(__file__).parents[2]
POOL = "RegMix's 512 runs"
FRESH = 10  # seeds below were used to choose how next runs are proposed


def main() -> None:
    """Run every way in every world, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", type=Path, help="folder of the public tables")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=FRESH)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--to", type=Path, default=ROOT)
    given = parser.parse_args()
    start = perf_counter()
    paths = measured(
        given.data, range(given.first_seed, given.first_seed + given.seeds), given.workers
    )
    command = " ".join(["python -m benchmarks.design", *(["DIR"] if given.data else [])])
    text = document(paths, command=command, seconds=perf_counter() - start)
    results = given.to / "benchmarks" / "results" / "design.md"
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(text)
    images = given.to / "docs" / "images"
    images.mkdir(parents=True, exist_ok=True)
    picture(paths, images / "regret.svg")
    sys.stdout.write(text)


def measured(data: Path | None, seeds: range, workers: int) -> Paths:
    """Regret by world, way and number of runs, a list over seeds."""
    found: Paths = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    with ProcessPoolExecutor(workers) as office:
        jobs = {office.submit(*work): about for about, work in _work(data, seeds)}
        for done in as_completed(jobs):
            world, way, seed = jobs[done]
            path = done.result()
            sys.stderr.write(f"{world}, {way}, seed {seed}: {path}\n")
            for runs, regret in path.items():
                found[world][way][runs].append(regret)
    return found


def _work(
    data: Path | None, seeds: range
) -> Iterator[tuple[tuple[str, str, int], tuple[Any, ...]]]:
    """What each job is about, and its call; the longest first, so that none is waited for."""
    for seed in seeds if data is not None else ():
        for way in pool.COUNTS:
            yield (POOL, way, seed), (pool.path, data, way, seed)
    for seed in seeds:
        for world in WORLDS:
            for way in simulated.COUNTS:
                yield (world, way, seed), (simulated.path, world, way, seed)


if __name__ == "__main__":
    main()
