"""How fast a recipe trains here: a few timed updates on random tokens, solo, stacked, or by many
processes at once.

    seconds of an update = micro-batches * seconds of one + seconds of AdamW
    tokens per second    = runs * tokens of an update / seconds of an update

Micro-batches are timed with as many sequences as the loop would take, so that a batch of a
million tokens costs no more to measure than one of thirty thousand; where even that would take
too long, with fewer, and the result says so. Models, batches, clip and optimiser are the loop's
own. Nothing is compiled: that would take longer than what is measured, and speeds up a run
alone and a stack alike, though not equally.

    python -m mixlab.training.measuring    one of many processes: the recipe on standard input,
                                           then stack after stack: its size in, "ready" out,
                                           a line in, seconds out

Limits: no checkpoints, no evaluations; what else the machine does now is in the result.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any, Literal, Self

import numpy as np
import torch

from mixlab.corpora.sampling import Sampler
from mixlab.corpora.turns import Integers
from mixlab.errors import MixlabError
from mixlab.mixture import Mixture
from mixlab.recipes import Recipe
from mixlab.training.engine import Engine
from mixlab.training.parallel import World
from mixlab.training.placement import deterministic
from mixlab.training.stacked.batches import micro_batch
from mixlab.training.stacked.engine import StackedEngine

STREAM_TOKENS = 1 << 24
ROUNDS = 3  # at least, of which the median counts
READY = "ready"
CPU = torch.device("cpu")

Way = Literal["one by one", "stacked", "processes"]


@dataclass(frozen=True)
class Measured:
    """What was measured of one way to train: `runs` at once in each of `processes`."""

    runs: int  # in one process, stacked where there are several
    processes: int
    threads: int  # CPU threads of each process
    update_seconds: float  # of one update of all of them
    tokens_per_second: float  # of all of them together
    peak_bytes: int | None  # of the device; None where that isn't known
    how: str  # in words

    @property
    def way(self) -> Way:
        """What it is called."""
        if self.processes > 1:
            return "processes"
        return "stacked" if self.runs > 1 else "one by one"

    @property
    def at_once(self) -> int:
        """Runs that are under way at the same time."""
        return self.runs * self.processes

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"way": self.way, **asdict(self)}


class RandomTokens:
    """A stream of random tokens without any memory for them."""

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary

    def __len__(self) -> int:
        return STREAM_TOKENS

    def windows(self, starts: Integers, length: int) -> Integers:
        """Random tokens, shape (start, length)."""
        chance = np.random.default_rng(int(starts[0]) if len(starts) else 0)
        return chance.integers(self._vocabulary, size=(len(starts), length))


def measure_throughput(
    recipe: Recipe,
    device: torch.device,
    runs: int,
    *,
    threads: int | None = None,
    seconds: float = 2.0,
) -> Measured:
    """Time updates of one run alone, or of a stack of `runs`, for about so many seconds.

    Raises torch.OutOfMemoryError where the stack doesn't fit after all.
    """
    with deterministic(device, threads):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        update, share = _update_seconds(recipe, device, runs, seconds)
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
        used = torch.get_num_threads()
    return Measured(
        runs=runs,
        processes=1,
        threads=used,
        update_seconds=update,
        tokens_per_second=runs * recipe.tokens_per_step / update,
        peak_bytes=peak,
        how=_words(share, recipe),
    )


class Processes:
    """Processes of one CPU thread each, which train at the same time; a context that ends them.

    Real ones, because they share caches and memory. Raises MixlabError with what a process
    wrote where one fails.
    """

    def __init__(self, recipe: Recipe, processes: int, *, seconds: float = 2.0) -> None:
        self._recipe = recipe
        given = json.dumps({"recipe": recipe.to_dict(), "seconds": seconds})
        self._started = [_start(given) for _ in range(processes)]

    def measure(self, runs: int) -> Measured:
        """Time updates of `runs` in each process, stacked where there are several."""
        for one in self._started:
            _say(one, str(runs))
        for one in self._started:
            _line(one, READY)
        for one in self._started:
            _say(one, "go")
        told = [json.loads(_line(one, "{")) for one in self._started]
        tokens, count = runs * self._recipe.tokens_per_step, len(told)
        rate = sum(tokens / one["update_seconds"] for one in told)
        words = _words(told[0]["share"], self._recipe)
        return Measured(
            runs=runs,
            processes=count,
            threads=1,
            update_seconds=count * tokens / rate,
            tokens_per_second=rate,
            peak_bytes=None,
            how=f"{count} real processes at the same time, {words}",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._started:
            one.kill()
            one.communicate()


def _update_seconds(
    recipe: Recipe, device: torch.device, runs: int, seconds: float
) -> tuple[float, float]:
    """Seconds of one update, and the share of a micro-batch that was timed for it."""
    sequences = recipe.batch_sequences
    whole = micro_batch(recipe, device, runs, sequences)
    timed, work = _sized(recipe, device, runs, whole, seconds)
    parts = sequences / timed
    gradients, updates = _timed(work, device, seconds)
    return parts * gradients + updates, timed / whole


def _sized(
    recipe: Recipe, device: torch.device, runs: int, whole: int, seconds: float
) -> tuple[int, "Work"]:
    """As many sequences as are quick enough, up to a whole micro-batch.

    Each is worked once before the clock, as a first call sets much up.
    """
    timed, work = 1, Work(recipe, device, runs, 1)
    while timed < whole:
        work.round(device)
        began = time.perf_counter()
        work.round(device)
        if (time.perf_counter() - began) * 2 * (ROUNDS + 2) > seconds:
            break
        # Fourfold, as small ones cost next to nothing more than their launches.
        timed = min(4 * timed, whole)
        work = Work(recipe, device, runs, timed)
    return timed, work


class Work:
    """One micro-batch of so many sequences a run, and AdamW, as the loop has them.

    `compiled` compiles the blocks, which takes a while, where a compiler works.
    """

    def __init__(
        self, recipe: Recipe, device: torch.device, runs: int, sequences: int, *,
        compiled: bool = False,
    ) -> None:  # fmt: skip
        self.recipe = replace(
            recipe, batch_sequences=sequences, batch_stages=(), compiled=compiled,
            on_anomaly="fail",
        )  # fmt: skip
        shape = recipe.architecture
        streams = {name: RandomTokens(shape.vocabulary) for name in ("one", "other")}
        even = Mixture.uniform(list(streams))
        self.step = 0
        self.gradients: Callable[[], object]
        self.update: Callable[[], object]
        if runs == 1:
            sampler = Sampler(
                streams, even, context=shape.context, batch_sequences=sequences, seed=0
            )
            engine = Engine(self.recipe, sampler, 0, World.alone(device))
            engine.compile()
            self.gradients = lambda: engine.gradients(self._next())
            self.update = lambda: engine.apply(1)
            return
        stack = StackedEngine(self.recipe, streams, [(even, seed) for seed in range(runs)], device)
        stack.compile()
        everyone = torch.ones(runs, dtype=torch.bool, device=device)
        norms = torch.ones(runs, device=device)
        rates = [recipe.learning_rate] * runs
        self.gradients = lambda: stack.gradients(self._next())
        self.update = lambda: stack.apply(rates, norms, everyone)

    def round(self, device: torch.device) -> None:
        """All of it once."""
        self.gradients()
        self.update()
        _synchronise(device)

    def _next(self) -> int:
        self.step = self.step % self.recipe.steps + 1
        return self.step


def _timed(work: Work, device: torch.device, seconds: float) -> tuple[float, float]:
    """Median seconds of gradients and of an update, after one round that isn't counted."""
    work.round(device)
    found: list[tuple[float, float]] = []
    until = time.perf_counter() + seconds
    while len(found) < ROUNDS or time.perf_counter() < until:
        _synchronise(device)
        began = time.perf_counter()
        work.gradients()
        _synchronise(device)
        between = time.perf_counter()
        work.update()
        _synchronise(device)
        found.append((between - began, time.perf_counter() - between))
    return median(one for one, _ in found), median(one for _, one in found)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _words(share: float, recipe: Recipe) -> str:
    part = "" if share == 1 else f", extrapolated from {share:.0%} of a micro-batch"
    eager = " without compiling, which the runs will do" if recipe.compiled else ""
    return f"timed updates on random tokens{eager}{part}"


def _start(given: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "mixlab.training.measuring"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    _say(process, given)
    return process


def _say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def _line(process: subprocess.Popen[str], beginning: str) -> str:
    """The next line; it must begin so."""
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    if not line.startswith(beginning):
        process.kill()
        raise MixlabError(
            f"A process that was to measure failed: {process.stderr.read()[-500:] or line!r}."
        )
    return line


def main() -> None:
    """Be one of many processes that are measured."""
    given = json.loads(sys.stdin.readline())
    recipe, seconds = Recipe.from_dict(given["recipe"]), given["seconds"]
    with deterministic(CPU, 1):
        for line in iter(sys.stdin.readline, ""):
            told = _one_of_many(recipe, int(line), seconds)
            sys.stdout.write(json.dumps(told) + "\n")
            sys.stdout.flush()


def _one_of_many(recipe: Recipe, runs: int, seconds: float) -> dict[str, float]:
    whole = micro_batch(recipe, CPU, runs, recipe.batch_sequences)
    timed, work = _sized(recipe, CPU, runs, whole, seconds)
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    sys.stdin.readline()
    gradients, updates = _timed(work, CPU, seconds)
    parts = recipe.batch_sequences / timed
    return {"update_seconds": parts * gradients + updates, "share": timed / whole}


if __name__ == "__main__":
    main()
