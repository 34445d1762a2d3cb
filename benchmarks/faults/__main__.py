"""`make chaos`: 500 jobs and 50 faults on SQLite and on PostgreSQL; what is lost or doubled.

    python -m benchmarks.faults [--jobs 500] [--faults 50] [--seconds 300] [--databases ...]

Then workers are killed one at a time, with nothing else wrong, to time the recovery alone
(`--faults 0` does that only). Ends with status 1 where anything was lost, doubled or failed. Writes
benchmarks/results/faults.md, or `--output`.
"""

import argparse
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from random import Random
from types import FrameType
from typing import NoReturn

from benchmarks.faults.counting import Count, markdown
from benchmarks.faults.injuries import INJURIES, Injury, kill_busy_worker
from benchmarks.faults.suite import run
from benchmarks.laws.writing import machine
from tests.ledger.postgres import binaries, cluster

OUTPUT = Path(__file__).parents[1] / "results" / "faults.md"
TITLES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
LEASE_SECONDS = 20.0  # the default of MIXLAB_LEASE_SECONDS
KILLS = 6  # of workers, one at a time
# Enough of them that some are running at the last kill.
KILLS_JOBS, KILLS_SECONDS = 160, 300.0
# Faults here are a thousand times as frequent as in life; a job may well meet four.
SETTINGS = {"MIXLAB_MAX_FAILURES": "15", "MIXLAB_MAX_RETRIES": "15"}

HEAD = """# Faults

Made {when} by `make chaos` on {machine}.

Real processes (broker, API, two workers with their jobs' subprocesses, sweep, database), real
faults at random moments, while jobs come in: acts of 0.1 to 1.5 s with an effect in the ledger,
families of a job and three children, fits of a table and short training runs over HTTP, each
asked for with one Idempotency-Key until it was acknowledged. Leases of {lease:g} s, the default;
up to {failures} crashes a job, because faults are far more frequent here than in life.

* finished exactly once: one terminal event, and it succeeded;
* lost: acknowledged, and not there or never ended;
* doubled: two ends, two effects, a child too many, or a second job for one request;
* attempts above the jobs' number are the price: what was killed is done again."""


def main() -> int:
    """Run on each database, write the table, tell whether all is well."""
    asked = _arguments()
    signal.signal(signal.SIGTERM, _interrupted)  # so that what was started is stopped
    when = time.strftime("%Y-%m-%d")
    head = HEAD.format(
        when=when, machine=machine(), lease=LEASE_SECONDS, failures=SETTINGS["MIXLAB_MAX_FAILURES"]
    )
    parts = (_storm, _one_at_a_time) if asked.faults else (_one_at_a_time,)
    done = [part(name, asked) for name in asked.databases for part in parts]
    text = "\n\n".join([head, *(section for _, section in done)]) + "\n"
    asked.output.write_text(text)
    sys.stdout.write(text)
    return 1 if any(found.lost or found.doubled or found.failed for found, _ in done) else 0


def _storm(name: str, asked: argparse.Namespace) -> tuple[Count, str]:
    """Every kind of fault, one upon the other."""
    found, happened, seconds = _run(
        name, drawn(asked.faults, asked.seed), asked.seed, jobs=asked.jobs, seconds=asked.seconds
    )
    return found, markdown(TITLES[name], found, seconds, happened)


def _one_at_a_time(name: str, asked: argparse.Namespace) -> tuple[Count, str]:
    """Workers killed as they do a job, the next when that runs again."""
    found, happened, seconds = _run(
        name, [kill_busy_worker] * KILLS, asked.seed, jobs=KILLS_JOBS, seconds=KILLS_SECONDS
    )
    title = f"{TITLES[name]}, one worker killed at a time and nothing else wrong"
    return found, markdown(title, found, seconds, happened)


def _run(
    name: str, injuries: list[Injury], seed: int, *, jobs: int, seconds: float
) -> tuple[Count, Mapping[str, int], float]:
    with ExitStack() as stack:
        return run(
            stack.enter_context(cluster()) if name == "postgresql" else None, injuries,
            jobs=jobs, seconds=seconds, seed=seed, settings=SETTINGS,
            lease_seconds=LEASE_SECONDS, say=_say,
        )  # fmt: skip


def drawn(count: int, seed: int) -> list[Injury]:
    """So many faults, each kind as often as any other, in a random order."""
    repeated = [INJURIES[n % len(INJURIES)] for n in range(count)]
    Random(seed).shuffle(repeated)
    return repeated


def _interrupted(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=300.0, help="over which jobs come in")
    parser.add_argument("--seed", type=int, default=0)
    there = ["sqlite", "postgresql"] if binaries() is not None else ["sqlite"]
    parser.add_argument("--databases", nargs="+", choices=["sqlite", "postgresql"], default=there)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
