"""One run's tokens per second, beside other trainers doing the same work.

Every contender is a process of its own that compiles once and waits (work.py). In each round
each does a burst of the same updates, one after the other, and a contender's ratio is the
median over rounds of its seconds to those of mixlab's in the same round.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.training.work import Work

ROOT = Path(__file__).parents[2]
ROUNDS, BURST_SECONDS = 9, 2.0
OURS = "mixlab"
# By environment: what runs in it.
PEERS = {"litgpt": ("litgpt",), "transformers": ("transformers", "trainer")}
NAMES = {
    OURS: "mixlab",
    "litgpt": "litgpt, pretraining step",
    "transformers": "transformers, plain step",
    "trainer": "transformers, Trainer",
}
MODES = ("compiled", "eager")

SMALL = Work(
    "1.4M", layers=5, width=128, heads=4, kv_heads=2, ffn_width=352, vocabulary=2048,
    context=256, sequences=16, at_once=4,
)  # fmt: skip
MEDIUM = Work(
    "5M", layers=4, width=256, heads=4, kv_heads=2, ffn_width=688, vocabulary=4096,
    context=256, sequences=16, at_once=4,
)  # fmt: skip
# TinyLlama's shape, in micro-batches that any of them holds.
LARGE = Work(
    "1.1B", layers=22, width=2048, heads=32, kv_heads=4, ffn_width=5632, vocabulary=32_000,
    context=2048, sequences=32, at_once=8, precision="bfloat16", device="cuda",
)  # fmt: skip


@dataclass(frozen=True)
class Contender:
    """Who trains, and how."""

    name: str
    mode: str  # "compiled" or "eager"
    command: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """What a contender did."""

    contender: Contender
    parameters: int
    begin_seconds: float  # from its start to the end of the first update, compiling among it
    burst_seconds: tuple[float, ...]  # by round
    updates: int  # of a burst

    def tokens_per_second(self, work: Work) -> float:
        """Median over rounds."""
        return self.updates * work.tokens / median(self.burst_seconds)

    def ratios(self, other: "Row") -> list[float]:
        """How many times as fast this one is as the other, by round."""
        return [b / a for a, b in zip(self.burst_seconds, other.burst_seconds, strict=True)]


def contenders(pythons: Mapping[str, str], modes: Sequence[str] = MODES) -> list[Contender]:
    """mixlab, and the peers whose environments there are."""
    own = (sys.executable, "-m", "benchmarks.training.ours")
    found = [Contender(OURS, mode, (*own, mode)) for mode in modes]
    for environment, names in PEERS.items():
        if environment in pythons:
            peer = (pythons[environment], "-m", "benchmarks.training.peers")
            found += [
                Contender(name, mode, (*peer, name, mode)) for name in names for mode in modes
            ]
    return found


def measure(
    work: Work, among: Sequence[Contender], *, rounds: int = ROUNDS, seconds: float = BURST_SECONDS
) -> list[Row]:
    """Every contender's row; one that fails is told and left out."""
    with ExitStack() as opened:
        runs = [run for one in among if (run := _started(one, work, opened)) is not None]
        if not runs:
            return []
        # The first two updates of a burst after compiling are slower.
        updates = max(1, round(seconds * 2 / max(runs[0].burst(2), 1e-9)))
        for run in runs:
            run.burst(2)
        bursts: list[list[float]] = [[] for _ in runs]
        for _ in range(rounds):
            for run, found in zip(runs, bursts, strict=True):
                found.append(run.burst(updates))
    return [
        Row(run.contender, run.parameters, run.begin_seconds, tuple(found), updates)
        for run, found in zip(runs, bursts, strict=True)
    ]


class _Run:
    """A contender's process, past its first update."""

    def __init__(self, contender: Contender, process: "subprocess.Popen[str]", work: Work) -> None:
        self.contender, self._process = contender, process
        began = perf_counter()
        first = self._asked(work.to_json())
        self.begin_seconds = perf_counter() - began
        self.parameters = int(first["parameters"])

    def burst(self, updates: int) -> float:
        """Seconds of so many updates."""
        return float(self._asked(str(updates))["seconds"])

    def _asked(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        for answer in self._process.stdout:
            if answer.startswith('{"seconds"'):
                found: dict[str, Any] = json.loads(answer)
                return found
        raise ChildProcessError(f"{self.contender.name}, {self.contender.mode}: it ended early")


def _started(contender: Contender, work: Work, opened: ExitStack) -> _Run | None:
    try:
        run = opened.enter_context(_running(contender, work))
    except (OSError, ChildProcessError) as problem:
        sys.stderr.write(f"{work.name}: {problem}\n")
        return None
    sys.stderr.write(
        f"{work.name} {work.precision}: {contender.name}, {contender.mode} begun in "
        f"{run.begin_seconds:.0f} s\n"
    )
    return run


@contextmanager
def _running(contender: Contender, work: Work) -> Iterator[_Run]:
    process = subprocess.Popen(
        contender.command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": str(work.threads)},
    )
    try:
        yield _Run(contender, process, work)
    finally:
        assert process.stdin
        process.stdin.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
