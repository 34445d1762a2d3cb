"""Where a run computes: device, number format, threads, compiled or eager.

CUDA where there is one, in bfloat16 autocast with float32 weights; else the CPU in float32,
where that measured faster. On the CPU the decoder runs eagerly unless its recipe asks for
compiling and a C++ compiler is there. Each block is compiled by itself: all have the same
code, so the time doesn't grow with depth, and DDP, FSDP and recomputing blocks work on it as
they do eagerly. A compiler that fails costs speed, not the run: the result says which way it
went.
"""

import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from mixlab.recipes import Precision, Recipe

# Tokens whose activations a device holds at once; a larger batch accumulates gradients.
MICRO_BATCH_TOKENS = {"cpu": 16_384, "cuda": 32_768}


def chosen_device() -> torch.device:
    """The first CUDA device, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def in_bfloat16(device: torch.device, precision: Precision) -> bool:
    """Whether matrices are multiplied in bfloat16; weights are float32 in each case."""
    return precision == "bfloat16" or (precision == "auto" and device.type == "cuda")


def autocast(device: torch.device, precision: Precision = "auto") -> AbstractContextManager[object]:
    """The context of a forward pass: bfloat16 autocast, or nothing."""
    if in_bfloat16(device, precision):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def micro_batch(
    recipe: Recipe,
    device: torch.device,
    *,
    sequences: int | None = None,
    ranks: int = 1,
    at_most: int | None = None,
) -> int:
    """Sequences at a time: the largest divisor of a rank's batch that the device holds.

    `sequences` is the batch of all ranks, where it isn't the recipe's first one; `at_most` what
    this device has room for (memory.py), where that was looked at.
    """
    limit = max(1, MICRO_BATCH_TOKENS[device.type] // recipe.architecture.context)
    limit = limit if at_most is None else min(limit, at_most)
    batch = -(-(recipe.batch_sequences if sequences is None else sequences) // ranks)
    return next(size for size in range(min(limit, batch), 0, -1) if batch % size == 0)


@contextmanager
def deterministic(device: torch.device, threads: int | None) -> Iterator[None]:
    """Equal results for equal seeds, on `threads` CPU threads; settings are put back after."""
    before = torch.get_num_threads()
    strict = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    fills = memory.fill_uninitialized_memory
    # Sums on the CPU have one order for a number of threads; CUDA has to be told.
    told = device.type == "cuda" and not strict
    if threads is not None:
        torch.set_num_threads(threads)
    if told:
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Nothing reads what it hasn't written, and filling all memory costs bandwidth.
        memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if told:
            torch.use_deterministic_algorithms(strict, warn_only=warns)
            memory.fill_uninitialized_memory = fills


def compile_blocks(
    blocks: Iterable[nn.Module],
    probe: nn.Module,
    example: tuple[Tensor, ...],
    device: torch.device,
    *,
    agree: Callable[[bool], bool] = bool,
) -> str:
    """Compile every block in place, if that works for `probe`, a block like them.

    The probe is tried forwards and backwards on the example; `agree` tells whether it failed
    on any rank. The text says which way it went: "compiled", or "eager: " and the reason.
    """
    reason = _compiling_fails(probe, example, device)
    if agree(reason is not None):
        return f"eager: {reason or 'compiling failed on another rank'}"
    for block in blocks:
        block.compile(dynamic=False)
    return "compiled"


def _compiling_fails(
    probe: nn.Module, example: tuple[Tensor, ...], device: torch.device
) -> str | None:
    if device.type == "cpu" and not _cpp_compiler():
        return "no C++ compiler found"
    torch.compiler.reset()  # else the ninth model of a process would silently run eagerly
    probe.compile(dynamic=False)
    try:
        probe(*example).float().sum().backward()
    except (RuntimeError, OSError) as problem:
        # The first line names inductor's wrapper; the next ones say what went wrong.
        reason = " ".join(" ".join(str(problem).split("\n")[:4]).split())
        return f"compiling failed ({type(problem).__name__}: {reason})"
    return None


def eagerly(execution: str) -> AbstractContextManager[object]:
    """The context in which compiled blocks run as they are written.

    For evaluations: compiling once more, without gradients, costs more than it saves.
    """
    return torch.compiler.set_stance("force_eager") if execution == "compiled" else nullcontext()


def _cpp_compiler() -> str | None:
    """The compiler that inductor would call."""
    names = (os.environ.get("CXX", ""), "g++", "clang++", "c++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory that this process held: on the CUDA device, or resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
