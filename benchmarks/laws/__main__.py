"""Run the protocols and write the table: `python -m benchmarks.laws DATA [--quick] [--only P1-64]`.

One process a core, each with one thread; progress goes to standard error.
"""

import os
import shlex

# Before NumPy loads: the processes of the pool share the cores, threads of theirs would not help.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter

from benchmarks.laws.contenders import contenders
from benchmarks.laws.facts import facts
from benchmarks.laws.protocols import PROTOCOLS, Protocol
from benchmarks.laws.running import Task, run, say
from benchmarks.laws.tables import checksums
from benchmarks.laws.writing import document

OUTPUT = Path(__file__).parents[1] / "results" / "laws.md"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run, write."""
    asked = _parser().parse_args(arguments)
    start = perf_counter()
    chosen = [PROTOCOLS[key] for key in asked.only or PROTOCOLS]
    skipped = {
        ("all", f"there is no folder {one.needs}"): [one.key]
        for one in chosen
        if not (asked.data / one.needs).is_dir()
    }
    tasks = list(_tasks([one for one in chosen if (asked.data / one.needs).is_dir()], asked))
    cells, failures = run(tasks, asked.data, workers=asked.workers, minutes=asked.minutes)
    found = [] if asked.only else facts(asked.data)
    text = document(
        cells, found, skipped | failures, checksums(asked.data),
        command=_command(asked), seconds=perf_counter() - start,
    )  # fmt: skip
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    asked.output.write_text(text)
    say(f"{len(tasks)} tasks in {perf_counter() - start:.0f} s; wrote {asked.output.name}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.laws", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of the public tables")
    parser.add_argument("--quick", action="store_true", help="one seed a protocol")
    parser.add_argument("--only", nargs="+", choices=list(PROTOCOLS), help="these protocols alone")
    parser.add_argument("--laws", nargs="+", choices=list(contenders()), help="these laws alone")
    parser.add_argument("--minutes", type=float, default=15.0, help="start no task after these")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--output", type=Path, default=OUTPUT)
    return parser


def _command(asked: argparse.Namespace) -> str:
    """The command without the reader's paths."""
    words = ["python -m benchmarks.laws DIR", *(["--quick"] if asked.quick else [])]
    chosen = {"only": asked.only, "laws": asked.laws}
    words += [shlex.join([f"--{flag}", *names]) for flag, names in chosen.items() if names]
    return " ".join(words)


def _tasks(chosen: Sequence[Protocol], asked: argparse.Namespace) -> Iterator[Task]:
    """Seeds outermost: what the minutes don't suffice for are the last seeds of all."""
    seeds = 1 if asked.quick else max((protocol.seeds for protocol in chosen), default=0)
    for seed in range(seeds):
        for protocol in chosen:
            if seed < protocol.seeds:
                for name in asked.laws or contenders():
                    yield protocol.key, name, seed


if __name__ == "__main__":
    main()
