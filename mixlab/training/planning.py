"""How to train many proxy runs here, and what it costs, before anything runs.

Ways that compete, each measured on this device (measuring.py):

    one by one     a run after the other, on the whole device
    stacked        R runs as one program, R = 2, 4, 8, ... as memory and speed allow
    processes      on the CPU, a process per core, each with one run or a stack of them

    seconds = ceil(runs / at once) * at once * tokens of a run / tokens per second of all at once
    FLOPs   = tokens * (6 (N - input embedding) + 12 L d T)
    price   = seconds / 3600 * price per hour of the device

The fastest for all the runs wins. Stacks are tried from small to large, and no larger one is
tried once one has fewer tokens per second than the one before; what was not measured is not
guessed.
Limits: evaluations, checkpoints and reading from a slow disk come on top; whatever else the
machine does while it measures counts against what is measured then.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mixlab.errors import InvalidRecipe, NotEnoughMemory
from mixlab.recipes import Flops, Recipe
from mixlab.training.measuring import Measured, Processes, Way, measure_throughput
from mixlab.training.memory import free_bytes, needed_memory
from mixlab.training.placement import chosen_device
from mixlab.training.stacked.batches import micro_batch

FORMULA = Flops.WITHOUT_EMBEDDING
# Of free memory: needed_memory is a lower bound, and allocators need room.
USABLE_SHARE = 0.7
MOST_STACKED = 256
SECONDS = 20.0  # for all measurements of a plan
SHARE_OF_ONE = 0.1  # of them for the clock of one; building and a first round come on top
SHARE_OF_STACKS = 0.6  # after which no other size is begun


@dataclass(frozen=True)
class Cost:
    """What all runs of a plan cost together."""

    flops: float
    formula: str  # of FLOPs per token
    tokens: int
    seconds: float  # by the measured rate
    bytes: int  # that one program needs at least
    device_hours: float
    price: float | None  # in the currency of the price per hour, where one was given


@dataclass(frozen=True)
class Plan:
    """How to train so many runs of a recipe, and why so."""

    device: str
    way: Way
    runs: int
    stack: int  # runs in one program; 1 unless stacked
    processes: int
    measured: tuple[Measured, ...]
    reasons: tuple[str, ...]
    cost: Cost

    @property
    def rounds(self) -> int:
        """How many programs, or rounds of processes, one after another."""
        return math.ceil(self.runs / (self.stack * self.processes))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        told = [one.to_dict() for one in self.measured]
        return {**asdict(self), "measured": told, "rounds": self.rounds}


def largest_stack(
    recipe: Recipe, runs: int, device: torch.device, *, free: int | None = None
) -> int:
    """How many of the runs the device's free memory (or `free` bytes) holds at once, at least 1."""
    usable = USABLE_SHARE * (_free(device) if free is None else free)
    found = 1
    while found < min(runs, MOST_STACKED) and _needed(recipe, found + 1, device) <= usable:
        found += 1
    return found


def choose(
    recipe: Recipe,
    runs: int,
    *,
    device: torch.device | str | None = None,
    stack: int | None = None,
    price_per_hour: float | None = None,
    seconds: float = SECONDS,
) -> Plan:
    """Measure what can be done on the device, and take the fastest for all the runs.

    With `stack` that many are stacked and only this is measured. Measuring takes about
    `seconds`, or the time of the slowest single update if that is longer. Raises
    NotEnoughMemory where not even one run or that stack fits, InvalidRecipe for a device that
    isn't here.
    """
    device = _device(device)
    _check_one_fits(recipe, device)
    reasons: list[str] = []
    if stack is not None:
        _check_stack_fits(recipe, min(stack, runs), device)
        measured = [
            measure_throughput(recipe, device, min(stack, runs), seconds=seconds * SHARE_OF_ONE)
        ]
        reasons.append(f"{stack} runs a program, as was asked for")
    elif device.type == "cpu":
        measured = _on_cpu(recipe, runs, device, seconds, reasons)
    else:
        measured = _on_cuda(recipe, runs, device, seconds, reasons)
    return plan_of(recipe, runs, device, measured, reasons, price_per_hour=price_per_hour)


def plan_of(
    recipe: Recipe, runs: int, device: torch.device, measured: Sequence[Measured],
    reasons: Sequence[str] = (), *, price_per_hour: float | None = None,
) -> Plan:  # fmt: skip
    """The fastest of what was measured, for all the runs; stacks are made as even as can be."""
    best = min(measured, key=lambda one: _total_seconds(one, runs, recipe))
    # 20 runs by 16 are two stacks of 10.
    rounds = math.ceil(runs / best.at_once)
    stack = math.ceil(runs / rounds / best.processes)
    seconds = _total_seconds(best, runs, recipe)
    return Plan(
        device=device.type,
        way="one by one" if best.way == "stacked" and stack == 1 else best.way,
        runs=runs,
        stack=stack,
        processes=best.processes,
        measured=tuple(measured),
        reasons=(*reasons, _why(best, measured, runs, recipe)),
        cost=_cost(recipe, runs, stack, seconds, device, price_per_hour),
    )


def _on_cpu(
    recipe: Recipe, runs: int, device: torch.device, seconds: float, reasons: list[str]
) -> list[Measured]:
    """One run on all cores; then a process per core, each with one run or a stack of them."""
    each = seconds * SHARE_OF_ONE
    alone = measure_throughput(recipe, device, 1, seconds=each)
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    most = largest_stack(recipe, runs, device)
    processes = min(cores, most)
    if processes == 1:
        return [alone, *_larger(recipe, most, lambda size: measure_throughput(
            recipe, device, size, seconds=each), seconds, reasons)]  # fmt: skip
    with Processes(recipe, processes, seconds=each) as some:
        one_each = some.measure(1)
        return [
            alone,
            one_each,
            *_larger(recipe, most // processes, some.measure, seconds, reasons),
        ]


def _on_cuda(
    recipe: Recipe, runs: int, device: torch.device, seconds: float, reasons: list[str]
) -> list[Measured]:
    """One run, and stacks of them."""
    each = seconds * SHARE_OF_ONE

    def measure(size: int) -> Measured:
        return measure_throughput(recipe, device, size, seconds=each)

    most = largest_stack(recipe, runs, device)
    return [measure(1), *_larger(recipe, most, measure, seconds, reasons)]


def _larger(
    recipe: Recipe, most: int, measure: Callable[[int], Measured], seconds: float,
    reasons: list[str],
) -> list[Measured]:  # fmt: skip
    """Larger and larger stacks, while they get faster and time is left."""
    if recipe.on_anomaly == "roll_back":
        reasons.append("no stacks, since the recipe rolls back and one run can't do that alone")
        return []
    found: list[Measured] = []
    # Counted from here, as starting processes takes what it takes on a busy machine.
    until = time.monotonic() + seconds * SHARE_OF_STACKS
    sizes = sorted({*(1 << power for power in range(1, most.bit_length())), most} - {1})
    for size in sizes:
        if time.monotonic() > until:
            reasons.append(f"stacks of {size} and more were not measured, for want of time")
            break
        try:
            found.append(measure(size))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            reasons.append(f"stacks of {size} don't fit into the device's memory")
            break
        if len(found) > 1 and found[-1].tokens_per_second < found[-2].tokens_per_second:
            reasons.append(f"no larger stacks than {size}, as those are slower than smaller ones")
            break
    return found


def _total_seconds(one: Measured, runs: int, recipe: Recipe) -> float:
    """Of all runs, where a round that isn't full takes as long as one that is."""
    rounds = math.ceil(runs / one.at_once)
    return rounds * one.at_once * recipe.tokens / one.tokens_per_second


def _why(best: Measured, measured: Sequence[Measured], runs: int, recipe: Recipe) -> str:
    others = [one for one in measured if one is not best]
    taken = f"{_named(best)}: {best.tokens_per_second:,.0f} tokens/s"
    if not others:
        return f"{taken}; nothing else was measured"
    told = ", ".join(f"{_named(one)} {one.tokens_per_second:,.0f}" for one in others)
    least = _total_seconds(best, runs, recipe)
    second = min(_total_seconds(one, runs, recipe) for one in others)
    return f"{taken}, {second / least:.2f} times as fast for {runs} runs as the next; {told}"


def _named(one: Measured) -> str:
    if one.processes > 1:
        stacks = "" if one.runs == 1 else f" of {one.runs} runs"
        return f"{one.processes} processes{stacks}"
    return "one by one" if one.runs == 1 else f"stacks of {one.runs}"


def _cost(
    recipe: Recipe, runs: int, stack: int, seconds: float, device: torch.device,
    price_per_hour: float | None,
) -> Cost:  # fmt: skip
    tokens = runs * recipe.tokens
    hours = seconds / 3600
    return Cost(
        flops=float(tokens) * recipe.architecture.flops_per_token(FORMULA),
        formula=FORMULA.value,
        tokens=tokens,
        seconds=seconds,
        bytes=_needed(recipe, stack, device),
        device_hours=hours,
        price=None if price_per_hour is None else hours * price_per_hour,
    )


def _device(given: torch.device | str | None) -> torch.device:
    if given is None:
        return chosen_device()
    kind = str(given).partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise InvalidRecipe(f"A device is cpu or cuda, not {given}.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise InvalidRecipe("There is no CUDA device here; plan on the machine that has it.")
    return torch.device(given)


def _check_stack_fits(recipe: Recipe, stack: int, device: torch.device) -> None:
    needed, usable = _needed(recipe, stack, device), USABLE_SHARE * _free(device)
    if stack > 1 and needed > usable:
        raise NotEnoughMemory(
            f"A stack of {stack} runs of {recipe.name} needs at least {needed / 1e9:.1f} GB of "
            f"{device.type} memory, but {usable / 1e9:.1f} GB may be used; ask for a stack of "
            f"{largest_stack(recipe, stack, device)}, or auto."
        )


def _needed(recipe: Recipe, runs: int, device: torch.device) -> int:
    sequences = micro_batch(recipe, device, runs, recipe.batch_sequences)
    return needed_memory(recipe, sequences=sequences, runs=runs, device=device).peak


def _free(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_bytes()


def _check_one_fits(recipe: Recipe, device: torch.device) -> None:
    needed, free = _needed(recipe, 1, device), _free(device)
    if needed > free:
        raise NotEnoughMemory(
            f"One run of {recipe.name} needs at least {needed / 1e9:.1f} GB of {device.type} "
            f"memory, but {free / 1e9:.1f} GB are free; take a smaller recipe, or a device with "
            "more memory."
        )
