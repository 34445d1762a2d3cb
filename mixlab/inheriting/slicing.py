"""Cutting a smaller decoder out of a larger one, by the units that stay."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mixlab.inheriting.units import Choice
from mixlab.recipes import Architecture
from mixlab.training.decoder import Decoder, rotations

Weights = Mapping[str, Tensor]


def without_layers(weights: Weights, kept: list[int]) -> dict[str, Tensor]:
    """The weights with only those layers, numbered anew from 0; no tensor is copied."""
    places = {f"blocks.{old}.": f"blocks.{new}." for new, old in enumerate(kept)}
    found = {name: weight for name, weight in weights.items() if not name.startswith("blocks.")}
    for old, new in places.items():
        found |= {
            new + name.removeprefix(old): weight
            for name, weight in weights.items()
            if name.startswith(old)
        }
    return found


def sliced(
    weights: Weights, donor: Architecture, heir: Architecture, choice: Choice, gains: list[float]
) -> dict[str, Tensor]:
    """The heir's weights, from a donor with as many layers.

    `gains` are factors of the norms (gains.py), two per layer and the last one's. A head of the
    heir's own is a copy of the embedding where the donor ties them.
    """
    width = choice.width
    found = {
        "embedding.weight": weights["embedding.weight"][:, width],
        "norm.weight": weights["norm.weight"][width] * gains[-1],
    }
    if not heir.tied_head:
        head = weights["embedding.weight" if donor.tied_head else "head.weight"]
        found["head.weight"] = head[:, width].clone()
    for i in range(heir.layers):
        block = _block(weights, donor, choice, i, gains[2 * i : 2 * i + 2])
        found |= {f"blocks.{i}.{name}": weight for name, weight in block.items()}
    return {name: weight.contiguous() for name, weight in found.items()}


def _block(
    weights: Weights, donor: Architecture, choice: Choice, i: int, gains: list[float]
) -> dict[str, Tensor]:
    own = {
        name: weights[f"blocks.{i}.{name}"]
        for name in (
            "attention_norm.weight", "attention.qkv.weight", "attention.output.weight",
            "ffn_norm.weight", "ffn.gate_up.weight", "ffn.down.weight",
        )
    }  # fmt: skip
    width, heads, kv, ffn = choice.width, choice.heads[i], choice.kv_heads[i], choice.ffn[i]
    # Rows of qkv are all query heads, then all key heads, then all value heads.
    rows = torch.cat((heads, donor.heads + kv, donor.heads + donor.kv_heads + kv))
    return {
        "attention_norm.weight": own["attention_norm.weight"][width] * gains[0],
        "attention.qkv.weight": own["attention.qkv.weight"][_spread(rows, donor)][:, width],
        "attention.output.weight": own["attention.output.weight"][width][:, _spread(heads, donor)],
        "ffn_norm.weight": own["ffn_norm.weight"][width] * gains[1],
        "ffn.gate_up.weight": own["ffn.gate_up.weight"][torch.cat((ffn, donor.ffn_width + ffn))][
            :, width
        ],
        "ffn.down.weight": own["ffn.down.weight"][width][:, ffn],
    }


def _spread(heads: Tensor, donor: Architecture) -> Tensor:
    """The rows of whole heads."""
    return (heads[:, None] * donor.head_width + torch.arange(donor.head_width)).flatten()


def decoder_of(weights: Weights, shape: Architecture, device: torch.device) -> Decoder:
    """A decoder of the shape with these weights, on the device, without gradients."""
    with torch.device("meta"):
        model = Decoder(shape)
    # Computed here, as it is no weight, and the meta device holds no numbers.
    model.rotation = rotations(shape.context, shape.head_width, shape.rope_theta)
    tied = {"head.weight": weights["embedding.weight"]} if shape.tied_head else {}
    model.load_state_dict({**weights, **tied}, assign=True)
    if shape.tied_head:
        model.head.weight = model.embedding.weight
    return model.to(device).requires_grad_(False)
