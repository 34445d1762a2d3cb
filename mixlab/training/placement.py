"""Where a run computes: device, number format, threads, compiled or eager.

CUDA where there is one, in bfloat16 autocast; else the CPU in float32. On the CPU the
decoder runs eagerly unless its recipe asks for compiling and a C++ compiler is there. A
compiler that fails costs speed, not the run: the result says which way it went.
"""

import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from mixlab.recipes import Recipe

# Tokens whose activations a device holds at once; a larger batch accumulates gradients.
MICRO_BATCH_TOKENS = {"cpu": 16_384, "cuda": 32_768}


def chosen_device() -> torch.device:
    """The first CUDA device, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 on CUDA, nothing on the CPU, where float32 measured faster."""
    if device.type == "cuda":
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()


def micro_batch(recipe: Recipe, device: torch.device) -> int:
    """Sequences at a time: the largest divisor of the batch that the device holds."""
    limit = max(1, MICRO_BATCH_TOKENS[device.type] // recipe.architecture.context)
    batch = recipe.batch_sequences
    return next(size for size in range(min(limit, batch), 0, -1) if batch % size == 0)


@contextmanager
def deterministic(device: torch.device, threads: int | None) -> Iterator[None]:
    """Equal results for equal seeds, on `threads` CPU threads; settings are put back after."""
    before = torch.get_num_threads()
    strict = torch.are_deterministic_algorithms_enabled()
    if threads is not None:
        torch.set_num_threads(threads)
    # Sums on the CPU have one order for a number of threads; CUDA has to be told.
    torch.use_deterministic_algorithms(strict or device.type == "cuda", warn_only=True)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(strict)


def compiled_or_eager(
    function: Callable[[Tensor], Tensor], example: Tensor, device: torch.device
) -> tuple[Callable[[Tensor], Tensor], str]:
    """The function compiled, tried forwards and backwards on an example; else as it is.

    The text says which: "compiled", or "eager: " and the reason.
    """
    if device.type == "cpu" and not _cpp_compiler():
        return function, "eager: no C++ compiler found"
    torch.compiler.reset()  # else the ninth model of a process would silently run eagerly
    compiled = torch.compile(function, dynamic=False)
    try:
        compiled(example).float().sum().backward()  # type: ignore[no-untyped-call]
    except (RuntimeError, OSError) as problem:
        # The first line names inductor's wrapper; the next ones say what went wrong.
        reason = " ".join(" ".join(str(problem).split("\n")[:4]).split())
        return function, f"eager: compiling failed ({type(problem).__name__}: {reason})"
    return compiled, "compiled"


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
