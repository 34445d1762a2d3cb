"""Whether a recipe fits into this machine's memory, told before anything is allocated.

    bytes >= 16 * parameters + 4 * layers * tokens * (6 * width + 3 * ffn width)

float32 weights, gradients and AdamW's two moments, and what one micro-batch keeps for its
gradients: a lower bound. Without it a recipe that is far too large would get whatever else
runs here killed first, and be tried three times.
Limits: runs that start at the same moment don't see each other's needs.
"""

import os
from pathlib import Path

import torch

from mixlab.errors import NotEnoughMemory
from mixlab.recipes import Recipe
from mixlab.training.placement import chosen_device, micro_batch

BYTES_PER_PARAMETER = 16
BYTES_PER_VALUE = 4
MEMINFO = Path("/proc/meminfo")
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container


def check_memory(recipe: Recipe) -> None:
    """Raise NotEnoughMemory where the recipe needs more than is free now."""
    device = chosen_device()
    needed = needed_bytes(recipe, sequences=micro_batch(recipe, device))
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_bytes()
    if needed > free:
        raise NotEnoughMemory(
            f"Recipe {recipe.name} with {recipe.architecture.parameters:,} parameters needs at "
            f"least {needed / 1e9:.1f} GB of {device.type} memory, but {free / 1e9:.1f} GB are "
            "free; take a smaller recipe, or a machine with more memory."
        )


def needed_bytes(recipe: Recipe, *, sequences: int) -> int:
    """A lower bound for training with so many sequences at once."""
    shape = recipe.architecture
    kept = shape.layers * sequences * shape.context * (6 * shape.width + 3 * shape.ffn_width)
    return BYTES_PER_PARAMETER * shape.parameters + BYTES_PER_VALUE * kept


def free_bytes() -> int:
    """Memory that a process here can get; all there is where the system doesn't tell."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    if MEMINFO.exists():
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        limits.append(int(lines["MemAvailable"].split()[0]) * 1024)
    if CGROUP_LIMIT.exists() and (told := CGROUP_LIMIT.read_text().strip()).isdecimal():
        limits.append(int(told))
    return min(limits)
