"""Tokens per second of proxy runs one after another, against stacks of them, on this device.

python -m benchmarks.training.stacking [--eager]

On the CPU the demo's proxy and a smaller one, on one thread. On CUDA RegMix's 1M shape (27M
parameters with its vocabulary of 50,432; context 2,048), by the sequences that a run has in a
step: stacking pays where a run alone leaves the device idle, so it must be told for several.
Every size is timed once in each of several rounds, one after the other, and ratios are taken
within a round; medians and the range of the ratios are shown. On the CPU seconds are those of
the process, for other work not to count. A round is one micro-batch as the
loop cuts it and one update; a step of many micro-batches is put together from the two.
"""

import argparse
import gc
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

import torch

from mixlab.recipes import Recipe, recipe
from mixlab.training.measuring import Work
from mixlab.training.placement import chosen_device, deterministic
from mixlab.training.planning import largest_stack
from mixlab.training.stacked.batches import micro_batch

SIZES = (1, 2, 4, 8, 16, 32, 64)
ROUNDS = 7
GOAL = 8.0  # times the tokens per second of one after another, on one H100-class GPU


@dataclass(frozen=True)
class Row:
    """What one size of stack does."""

    recipe: str
    sequences: int  # of a run's step
    runs: int
    tokens_per_second: float  # of all runs together
    gain: float  # over one run alone, in the same rounds
    least: float
    most: float


def cases(device: torch.device) -> list[tuple[Recipe, Sequence[int]]]:
    """Recipes, and the sizes that are tried with each."""
    if device.type == "cpu":
        return [(recipe(name), SIZES[:5]) for name in ("proxy_smoke", "proxy_tiny")]
    regmix = recipe("regmix_1m")
    return [
        (replace(regmix, batch_sequences=sequences), SIZES)
        for sequences in (1, 4, 16, 64, regmix.batch_sequences)
    ]


def measure(device: torch.device, *, compiled: bool) -> Iterable[Row]:
    """Every case's rows, as they are measured."""
    for chosen, sizes in cases(device):
        most = largest_stack(chosen, max(sizes), device)
        yield from _rows(chosen, [size for size in sizes if size <= most], device, compiled)


def _rows(
    chosen: Recipe, sizes: Sequence[int], device: torch.device, compiled: bool
) -> Iterable[Row]:
    works = {size: _work(chosen, size, device, compiled) for size in sizes}
    rates: dict[int, list[float]] = {size: [] for size in sizes}
    for number in range(ROUNDS + 1):
        for size, work in works.items():
            rate = size * chosen.tokens_per_step / _seconds(chosen, size, work, device)
            if number:  # the first one only warms up
                rates[size].append(rate)
    for size, found in rates.items():
        gains = [one / alone for one, alone in zip(found, rates[1], strict=True)]
        yield Row(
            chosen.name, chosen.batch_sequences, size, median(found), median(gains),
            min(gains), max(gains),
        )  # fmt: skip
    del works
    gc.collect()


def _work(chosen: Recipe, size: int, device: torch.device, compiled: bool) -> Work:
    rows = micro_batch(chosen, device, size, chosen.batch_sequences)
    return Work(chosen, device, size, rows, compiled=compiled)


def _seconds(chosen: Recipe, size: int, work: Work, device: torch.device) -> float:
    """Of one step of all runs."""
    parts = chosen.batch_sequences / micro_batch(chosen, device, size, chosen.batch_sequences)
    began = _now(device)
    work.gradients()
    between = _now(device)
    work.update()
    return parts * (between - began) + _now(device) - between


def _now(device: torch.device) -> float:
    """On the CPU this thread's own time, which other work on the machine doesn't change."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def markdown(rows: Iterable[Row]) -> Iterable[str]:
    """The rows as lines of a table."""
    yield "| recipe | sequences a step | runs stacked | tokens/s in all | gain (range of rounds) |"
    yield "|---|---|---|---|---|"
    for row in rows:
        yield (
            f"| `{row.recipe}` | {row.sequences} | {row.runs} | {row.tokens_per_second:,.0f} | "
            f"{row.gain:.2f} ({row.least:.2f} to {row.most:.2f}) |"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--eager", action="store_true", help="on CUDA without compiling")
    asked = parser.parse_args(arguments)
    device = chosen_device()
    compiled = device.type == "cuda" and not asked.eager
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, one thread"
    sys.stdout.write(
        f"{name}, torch {torch.__version__}, {'compiled' if compiled else 'eager'}\n\n"
    )
    with deterministic(device, 1 if device.type == "cpu" else None):
        for line in markdown(measure(device, compiled=compiled)):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
