"""Whether a recipe fits into a device's memory, told before anything is allocated.

    peak >= weights + moments + max(kept + tables + gradients if accumulating,
                                    gradients + kept of one block)

    weights    4 bytes a parameter, and a bfloat16 copy of the blocks' where they are cast
    moments    8 bytes a parameter, or 4 in bfloat16
    gradients  4 bytes a parameter; before the first backward pass there are none
    kept       per token and block what its gradients need, with width d, keys of k values in
               all, FFN f: eager 2 d in float32 and 5 d + 3 k + 4 f in the products' format, and
               on the CPU 2 d more in float32; compiled 1 d and 6 d + 3 k + 3 f; recomputed,
               1 d, and all of one block
    tables     of the head in chunks, in float32: its gradient, what the last norm keeps, the
               features' gradient, and a chunk of logits twice

Runs in a stack multiply all of it. Ranks that shard divide weights, gradients and moments,
and hold the tables and one block whole, and whole gradients while they accumulate.

The counts of kept values are those of the decoder's saved tensors in torch 2.13, read off on
the CPU; a lower bound, for allocators and whatever else runs come on top. Without it a recipe
that is far too large would get whatever else runs here killed first, and be tried three times.
Limits: runs that start at the same moment don't see each other's needs; ranks on one host share
its CPU memory, and each looks at its own part.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from mixlab.errors import NotEnoughMemory
from mixlab.recipes import Architecture, Recipe
from mixlab.training.head import CHUNK_BYTES
from mixlab.training.placement import chosen_device, in_bfloat16, micro_batch

FLOAT32, BFLOAT16 = 4, 2  # bytes
MEMINFO = Path("/proc/meminfo")
# Of free memory; the estimate is a lower bound, and within a fifth of what was measured.
COMFORTABLE_SHARE = 0.8
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container


@dataclass(frozen=True)
class Memory:
    """Bytes that one process needs on its device, by what they hold."""

    weights: int
    moments: int
    gradients: int
    kept: int  # for the gradients of one micro-batch
    kept_of_a_block: int
    tables: int  # of the head
    accumulating: bool  # gradients of one micro-batch are there when the next one begins

    @property
    def states(self) -> int:
        """What a process holds whatever its micro-batch is."""
        return self.weights + self.moments + self.gradients

    @property
    def peak(self) -> int:
        """The most of it at once."""
        forward = self.kept + self.tables + (self.gradients if self.accumulating else 0)
        return self.weights + self.moments + max(forward, self.gradients + self.kept_of_a_block)


def room(recipe: Recipe, device: torch.device, *, ranks: int, sharded: bool) -> int | None:
    """How many sequences at a time a CUDA device's free memory holds, at least 1; None on the CPU.

    There micro-batches are always the same, for with them the order of sums would depend on
    what else runs on the machine.
    """
    if device.type != "cuda":
        return None
    free = torch.cuda.mem_get_info(device)[0]
    usual = micro_batch(recipe, device, ranks=ranks)
    return fitting(recipe, free, usual, ranks=ranks, sharded=sharded, device=device)


def fitting(
    recipe: Recipe, free: int, usual: int, *, ranks: int, sharded: bool, device: torch.device
) -> int:
    """The most sequences, from `usual` down to 1, that so many free bytes hold comfortably."""

    def fits(sequences: int) -> bool:
        needed = needed_memory(
            recipe, sequences=sequences, ranks=ranks, sharded=sharded, device=device
        ).peak
        return needed <= COMFORTABLE_SHARE * free

    return next((size for size in range(usual, 1, -1) if fits(size)), 1)


def check_memory(recipe: Recipe, *, ranks: int = 1, sharded: bool = False) -> None:
    """Raise NotEnoughMemory where one process of the recipe needs more than is free now."""
    device = chosen_device()
    # Where there is little room, the loop takes fewer sequences at a time.
    sequences = 1 if device.type == "cuda" else micro_batch(recipe, device, ranks=ranks)
    needed = needed_memory(
        recipe, sequences=sequences, ranks=ranks, sharded=sharded, device=device
    ).peak
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_bytes()
    if needed > free:
        raise NotEnoughMemory(
            f"Recipe {recipe.name} with {recipe.architecture.parameters:,} parameters needs at "
            f"least {needed / 1e9:.1f} GB of {device.type} memory, but {free / 1e9:.1f} GB are "
            "free; take a smaller recipe, activation_checkpointing or moments in bfloat16, or a "
            "machine with more memory."
        )


def needed_memory(
    recipe: Recipe,
    *,
    sequences: int,
    runs: int = 1,
    ranks: int = 1,
    sharded: bool = False,
    device: torch.device | None = None,
) -> Memory:
    """What training holds in one process, with so many sequences of each run at once.

    `ranks` share the batch, and with `sharded` the weights and their states too. `device` is
    the one that would be chosen here, where it isn't given.
    """
    device = device or chosen_device()
    shape, half = recipe.architecture, in_bfloat16(device, recipe.precision)
    item = BFLOAT16 if half else FLOAT32
    tokens = runs * sequences * shape.context
    block = tokens * _kept_per_token(shape, item, recipe.compiled, device)
    stream = FLOAT32 * tokens * shape.width
    accumulating = sequences * ranks < max((recipe.batch_sequences, *_later_batches(recipe)))
    weights, gradients = _weights_and_gradients(
        shape, item, ranks if sharded else 1, accumulating=accumulating
    )
    moment = BFLOAT16 if recipe.moments == "bfloat16" else FLOAT32
    chunk = CHUNK_BYTES.get(device.type, CHUNK_BYTES["cuda"])
    logits = min(chunk, FLOAT32 * tokens * shape.vocabulary)
    return Memory(
        weights=runs * weights,
        moments=runs * 2 * moment * shape.parameters // (ranks if sharded else 1),
        gradients=runs * gradients,
        kept=shape.layers * (stream if recipe.activation_checkpointing else block),
        kept_of_a_block=block,
        tables=runs * FLOAT32 * shape.head_parameters + 3 * stream + 2 * logits,
        accumulating=accumulating,
    )


def _later_batches(recipe: Recipe) -> list[int]:
    return [sequences for _, sequences in recipe.batch_stages]


def _kept_per_token(shape: Architecture, item: int, compiled: bool, device: torch.device) -> int:
    """Bytes that a block keeps of a token between its forward and backward pass."""
    width, keys, ffn = shape.width, shape.kv_heads * shape.head_width, shape.ffn_width
    if compiled:
        return FLOAT32 * width + item * (6 * width + 3 * keys + 3 * ffn)
    # Without a kernel of its own, RMSNorm keeps x / rms too.
    streams = 4 if device.type == "cpu" else 2
    return FLOAT32 * streams * width + item * (5 * width + 3 * keys + 4 * ffn)


def _weights_and_gradients(
    shape: Architecture, item: int, shards: int, *, accumulating: bool
) -> tuple[int, int]:
    """Bytes of a process's weights with their copies, and of its gradients."""
    whole = FLOAT32 * shape.parameters
    if shards == 1:
        copies = item * shape.block_parameters if item != FLOAT32 else 0
        return whole + copies, whole
    gathered = shape.parameters - shape.block_parameters + shape.block_parameters // shape.layers
    return whole // shards + item * gathered, whole // shards + (whole if accumulating else 0)


def free_bytes() -> int:
    """Memory that a process here can get; all there is where the system doesn't tell."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    if MEMINFO.exists():
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        limits.append(int(lines["MemAvailable"].split()[0]) * 1024)
    if CGROUP_LIMIT.exists() and (told := CGROUP_LIMIT.read_text().strip()).isdecimal():
        limits.append(int(told))
    return min(limits)
