"""Which layers stay: skip-layer sensitivity, measured.

    sensitivity of layer i = loss without layer i - loss, in nats per token, on the calibration

The layer that is missed least goes, and those that are left are measured again without it: of
two layers that each make up for the other, only one can go. First and last layer stay.

Source: PanGu-pi Pro, arXiv 2402.02791 (skip-layer tests; first and last layers matter most).
That it measures again after each layer is a choice made here.
"""

import math
from dataclasses import dataclass
from itertools import count

from torch import Tensor, nn

from mixlab.inheriting.calibration import Progress, mean_loss, silent
from mixlab.training.decoder import Decoder


@dataclass(frozen=True)
class LayerChoice:
    """The layers that stay, and what was measured, by their numbers in the donor."""

    kept: list[int]
    loss_nats: float  # of the whole donor
    sensitivity_nats: list[float | None]  # of each layer; None for the protected ones
    dropped: list[tuple[int, float]]  # in order, each with the loss without it and all before


def choose_layers(
    decoder: Decoder, tokens: Tensor, layers: int, progress: Progress = silent
) -> LayerChoice:
    """Leave out layers until so many are left; at least 2, or as many as there are."""
    whole = list(decoder.blocks)
    kept, dropped = list(range(len(whole))), list[tuple[int, float]]()
    loss = mean_loss(decoder, tokens)
    sensitivity: list[float | None] = [None] * len(whole)
    all_of = sum(left - 2 for left in range(layers + 1, len(whole) + 1))
    measured = count(1)
    try:
        while len(kept) > layers:
            without = {}
            for i in kept[1:-1]:
                without[i] = _loss_of(decoder, whole, kept, i, tokens)
                progress("layers left out", next(measured), all_of)
            if not dropped:
                for i, found in without.items():
                    sensitivity[i] = found - loss
            least = min(without, key=lambda i: without[i])
            kept.remove(least)
            dropped.append((least, without[least]))
    finally:
        decoder.blocks = nn.ModuleList(whole)
    return LayerChoice(kept, loss, sensitivity, dropped)


def _loss_of(
    decoder: Decoder, whole: list[nn.Module], kept: list[int], left_out: int, tokens: Tensor
) -> float:
    decoder.blocks = nn.ModuleList(whole[i] for i in kept if i != left_out)
    found = mean_loss(decoder, tokens)
    return found if math.isfinite(found) else math.inf
