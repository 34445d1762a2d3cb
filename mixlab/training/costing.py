"""What a shape costs to train here: memory, and tokens per second, measured.

    tokens per second = 1 / (seconds of a token in 1 layer + (layers - 1) * what a 2nd layer adds)

where the whole shape is too large for this machine's memory or would take too long to time: then
one and two layers of it are timed, with its own head, and if need be on shorter sequences. Every
result says how it was measured. Sequences of fewer tokens are a little faster than whole ones,
for attention is.
"""

import math
from dataclasses import dataclass, replace

import torch

from mixlab.recipes import Architecture, Recipe
from mixlab.training.measuring import measure_throughput
from mixlab.training.memory import COMFORTABLE_SHARE, free_bytes, needed_memory

# Arithmetic of one sequence that can be timed in about a second.
MOST_FLOPS = {"cpu": 2e11, "cuda": 1e14}
LEAST_CONTEXT = 128
BATCH_TOKENS = 1 << 20  # over which AdamW's time is spread


@dataclass(frozen=True)
class Speed:
    """Tokens per second of training a shape here; None where nothing of it fits."""

    tokens_per_second: float | None
    how: str  # in words


def least_memory(shape: Architecture, device: torch.device) -> int:
    """Bytes that training the shape takes at least, with one sequence at a time."""
    return needed_memory(_recipe(shape), sequences=1, device=device).peak


def measure_speed(shape: Architecture, device: torch.device, *, seconds: float = 1.0) -> Speed:
    """Time updates of the shape, or of as much of it as this machine holds, on random tokens."""
    timed = _shortened(shape, device)
    words = "" if timed is shape else f"on {timed.context} tokens of {shape.context}, "
    if _fits(timed, device):
        found = measure_throughput(_recipe(timed), device, 1, seconds=seconds)
        return Speed(found.tokens_per_second, words + found.how)
    one, two = replace(timed, layers=1), replace(timed, layers=2)
    if not _fits(two, device, in_time=False):
        needed = least_memory(two, device)
        return Speed(None, f"2 layers alone need {needed / 1e9:.1f} GB, more than is free here")
    first, second = (_token_seconds(part, device, seconds) for part in (one, two))
    if second <= first:
        scale = timed.flops_per_token() / two.flops_per_token()
        return Speed(
            1 / (second * scale), f"{words}scaled by FLOPs from 2 of {shape.layers} layers"
        )
    whole = first + (shape.layers - 1) * (second - first)
    return Speed(1 / whole, f"{words}extrapolated from 1 and 2 of {shape.layers} layers")


def _token_seconds(shape: Architecture, device: torch.device, seconds: float) -> float:
    return 1 / measure_throughput(_recipe(shape), device, 1, seconds=seconds).tokens_per_second


def _shortened(shape: Architecture, device: torch.device) -> Architecture:
    """The shape on sequences that are short enough to time two of its layers."""
    while shape.context > LEAST_CONTEXT and _flops(replace(shape, layers=2)) > _most(device):
        shape = replace(shape, context=shape.context // 2)
    return shape


def _fits(shape: Architecture, device: torch.device, *, in_time: bool = True) -> bool:
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_bytes()
    held = least_memory(shape, device) <= COMFORTABLE_SHARE * free
    return held and (not in_time or _flops(shape) <= _most(device))


def _flops(shape: Architecture) -> float:
    return float(shape.flops_per_token() * shape.context)


def _most(device: torch.device) -> float:
    return MOST_FLOPS.get(device.type, MOST_FLOPS["cuda"])


def _recipe(shape: Architecture) -> Recipe:
    """A recipe of the shape, for its costs alone."""
    return Recipe(
        name=f"{shape.layers} x {shape.width}",
        architecture=shape,
        steps=1,
        batch_sequences=max(1, math.ceil(BATCH_TOKENS / shape.context)),
        learning_rate=1e-4,
        warmup_steps=0,
        evaluation_steps=(1,),
        evaluation_tokens=shape.context,
        compiled=False,
    )
