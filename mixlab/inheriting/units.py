"""Units of a decoder that can be left out, their scores, and which of them a smaller shape keeps.

A unit's score is the sum over its weights of some measure of one weight:

    hidden dimension    its column of embedding, head, queries, keys, values, gate and up, its
                        row of output and down, and its gains, in all layers
    query head          its rows of queries, its columns of output
    key/value head      its rows of keys and of values; as a group, its best queries too
    FFN neuron          its rows of gate and up, its column of down

Groups are chosen before their queries are: a key/value head is worth what it and the queries
that it would keep are worth.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mixlab.recipes import Architecture


@dataclass(frozen=True)
class Scores:
    """The importance of every unit, at least 0; comparable within a row, not between kinds."""

    width: Tensor  # (width,)
    heads: Tensor  # (layer, query head)
    kv_heads: Tensor  # (layer, key/value head), without its queries
    ffn: Tensor  # (layer, FFN neuron)

    def __add__(self, other: "Scores") -> "Scores":
        return Scores(
            self.width + other.width,
            self.heads + other.heads,
            self.kv_heads + other.kv_heads,
            self.ffn + other.ffn,
        )


@dataclass(frozen=True)
class Choice:
    """The units that stay, by their numbers in the donor, rising."""

    width: Tensor  # (kept dimension,), the same in all layers
    heads: Tensor  # (layer, kept query head), group after group
    kv_heads: Tensor  # (layer, kept key/value head)
    ffn: Tensor  # (layer, kept neuron)

    def of_block(self, block: int) -> dict[str, list[int]]:
        """What stays of one layer, ready for JSON."""
        return {
            "kv_heads": self.kv_heads[block].tolist(),
            "heads": self.heads[block].tolist(),
            "ffn": self.ffn[block].tolist(),
        }


def everything(shape: Architecture) -> Choice:
    """The choice that leaves nothing out."""

    def all_of(count: int) -> Tensor:
        return torch.arange(count).expand(shape.layers, -1)

    return Choice(
        torch.arange(shape.width),
        all_of(shape.heads),
        all_of(shape.kv_heads),
        all_of(shape.ffn_width),
    )


def scores_of(measured: Callable[[str], Tensor], shape: Architecture) -> Scores:
    """Scores from `measured(name)`, a number of at least 0 for each weight of that tensor."""
    width = measured("embedding.weight").sum(0) + measured("norm.weight")
    if not shape.tied_head:
        width = width + measured("head.weight").sum(0)
    heads, kv_heads, ffn = [], [], []
    for i in range(shape.layers):
        block = f"blocks.{i}"
        qkv = measured(f"{block}.attention.qkv.weight")
        output = measured(f"{block}.attention.output.weight")
        gate_up, down = (
            measured(f"{block}.ffn.gate_up.weight"),
            measured(f"{block}.ffn.down.weight"),
        )
        gains = measured(f"{block}.attention_norm.weight") + measured(f"{block}.ffn_norm.weight")
        width = width + qkv.sum(0) + gate_up.sum(0) + output.sum(1) + down.sum(1) + gains
        rows = qkv.sum(1).view(-1, shape.head_width).sum(1)  # of each head: queries, keys, values
        q, k, v = torch.split(rows, [shape.heads, shape.kv_heads, shape.kv_heads])
        heads.append(q + output.sum(0).view(shape.heads, -1).sum(1))
        kv_heads.append(k + v)
        ffn.append(gate_up.sum(1).view(2, -1).sum(0) + down.sum(0))
    # Sums alone leave the device.
    rows_of = [torch.stack(one).cpu() for one in (heads, kv_heads, ffn)]
    return Scores(width.cpu(), *rows_of)


def chosen(scores: Scores, shape: Architecture) -> Choice:
    """The units that a shape keeps: those of the highest scores, of equal ones the first."""
    kv_heads, heads = _chosen_heads(scores, shape)
    return Choice(
        _highest(scores.width, shape.width), heads, kv_heads, _highest(scores.ffn, shape.ffn_width)
    )


def _chosen_heads(scores: Scores, shape: Architecture) -> tuple[Tensor, Tensor]:
    """Key/value heads (layer, kept), and queries (layer, kept) group after group."""
    layers, groups = scores.kv_heads.shape
    queries = scores.heads.view(layers, groups, -1)
    each = shape.heads // shape.kv_heads
    best = _highest(queries, each)  # (layer, group, kept query of the group)
    worth = scores.kv_heads + queries.gather(2, best).sum(2)
    kept = _highest(worth, shape.kv_heads)
    of_kept = best.gather(1, kept[:, :, None].expand(-1, -1, each))
    return kept, (of_kept + kept[:, :, None] * queries.shape[2]).flatten(1)


def _highest(scores: Tensor, count: int) -> Tensor:
    """Places of the highest `count` in the last axis, rising."""
    order = scores.argsort(dim=-1, descending=True, stable=True)
    return order[..., :count].sort(dim=-1).values


def kept_shares(scores: Scores, choice: Choice) -> dict[str, Any]:
    """How much of all importance stays: of dimensions, and per layer of heads and neurons."""

    def share(of: Tensor, kept: Tensor) -> list[float]:
        total = of.sum(-1).clamp(min=torch.finfo(of.dtype).tiny)
        return (of.gather(-1, kept).sum(-1) / total).tolist()

    return {
        "width": share(scores.width[None], choice.width[None])[0],
        "heads": share(scores.heads, choice.heads),
        "kv_heads": share(scores.kv_heads, choice.kv_heads),
        "ffn": share(scores.ffn, choice.ffn),
    }
