"""One run of the suite: a cluster, a load, faults at random moments, and the books."""

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random

from benchmarks.faults.cluster import Cluster
from benchmarks.faults.counting import Count, count
from benchmarks.faults.injuries import Hurt, Injury, NotHere, mounted, unmounted
from benchmarks.faults.load import Load
from mixlab.ledger import Ledger

DISK_MEGABYTES = 600
PATIENCE_SECONDS = 180.0  # without a job ending, after which the rest counts as lost

Say = Callable[[str], None]


def run(
    database_url: str | None,
    injuries: Sequence[Injury],
    *,
    jobs: int,
    seconds: float,
    seed: int,
    settings: Mapping[str, str],
    lease_seconds: float,
    say: Say = lambda _line: None,
) -> tuple[Count, Mapping[str, int], float]:
    """The books, how often each fault came about, and how long it took.

    `database_url=None` keeps a SQLite file in the home folder, on the disk that is filled.
    """
    began, happened = time.monotonic(), Counter[str]()
    with (
        home_folder() as home,
        Cluster(home, database_url or f"sqlite:///{home}/ledger.sqlite", settings) as cluster,
    ):
        ledger = Ledger.open(cluster.database_url, migrate=False, patience_seconds=120)
        hurt = Hurt(cluster, ledger, Random(seed), lease_seconds)
        load = Load(cluster, jobs, seconds, seed)
        load.start()
        for number, injury in enumerate(injuries, start=1):
            if load.error is not None:
                break
            time.sleep(hurt.chance.uniform(0.3, 1.7) * seconds / len(injuries) / 2)
            try:
                injury(hurt)
            except NotHere as problem:
                say(f"left out: {injury.__name__}: {problem}")
            else:
                happened[injury.__name__] += 1
                say(f"{time.monotonic() - began:4.0f} s  fault {number}: {injury.__name__}")
        load.join()
        if load.error is not None:
            raise load.error
        _wait(ledger, load, say)
        found = count(load, hurt)
        ledger.close()
    return found, happened, time.monotonic() - began


def _wait(ledger: Ledger, load: Load, say: Say) -> None:
    """Until everything has ended, or nothing more may be expected."""
    moved, told, left = time.monotonic(), -1, load.done.all
    while time.monotonic() - moved < PATIENCE_SECONDS:
        left = [job for job in left if not ledger.job(job).state.terminal]
        if not left:
            return
        if len(left) != told:
            moved, told = time.monotonic(), len(left)
            say(f"{told} jobs left")
        time.sleep(2)


@contextmanager
def home_folder() -> Iterator[Path]:
    """A home folder, on a small file system of its own where this process may mount one."""
    with tempfile.TemporaryDirectory(prefix="mixlab-faults-") as name:
        folder = Path(name) / "home"
        folder.mkdir()
        small = mounted(folder, DISK_MEGABYTES)
        try:
            yield folder
        finally:
            if small:
                unmounted(folder)
