"""Donors with parts that do nothing, planted among the parts of a model that does something."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from mixlab.inheriting import Donor
from mixlab.inheriting.slicing import decoder_of
from mixlab.recipes import Architecture
from mixlab.training.decoder import Decoder

CPU = torch.device("cpu")
# An epsilon that counts for nothing, since it is added to a mean over more or fewer dimensions.
HEIR = Architecture(
    layers=3, width=24, heads=4, kv_heads=2, ffn_width=40, vocabulary=50, context=16,
    tied_head=False, norm_epsilon=1e-12,
)  # fmt: skip
LARGE = replace(HEIR, layers=5, width=36, heads=6, kv_heads=2, ffn_width=56)


def trained_like(shape: Architecture, seed: int) -> dict[str, Tensor]:
    """Weights of a model that is sure of what it says, with norms that are not 1."""
    model = Decoder(shape)
    model.initialise(seed)
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.copy_(0.5 + torch.rand(len(weight), generator=chance))
        for block in model.blocks:
            block.attention.output.weight *= 3
            block.ffn.down.weight *= 3
        if not shape.tied_head:
            model.head.weight *= 40
    return {name: weight.detach() for name, weight in model.named_parameters()}


@dataclass(frozen=True)
class Planted:
    """A donor, and what of it does something."""

    donor: Donor
    layers: list[int]
    width: Tensor
    heads: Tensor  # (heir's layer, head)
    kv_heads: Tensor  # (heir's layer, head)
    ffn: Tensor  # (heir's layer, neuron)


def planted(heir: Architecture, large: Architecture, seed: int = 0) -> Planted:
    """A donor of the large shape that computes what a model of the heir's shape would.

    All weights of what was added are 0: dimensions, heads, neurons; layers that were added write 0,
    and have weights otherwise.
    """
    chance = torch.Generator().manual_seed(seed)

    def places(count: int, of: int) -> Tensor:
        return torch.randperm(of, generator=chance)[:count].sort().values

    middle = (1 + places(heir.layers - 2, large.layers - 2)).tolist()
    layers = [0, *middle, large.layers - 1]
    small, noise = trained_like(heir, seed), trained_like(large, seed + 1)
    width = places(heir.width, large.width)
    found = {
        name: torch.zeros_like(weight) if weight.ndim == 2 else weight
        for name, weight in noise.items()
    }
    for name in ("embedding.weight", "head.weight"):
        if name in small:
            found[name][:, width] = small[name]
    found["norm.weight"][width] = small["norm.weight"]
    heads, kv_heads, ffn = [], [], []
    for new in range(heir.layers):
        kv = places(heir.kv_heads, large.kv_heads)
        each, of = heir.heads // heir.kv_heads, large.heads // large.kv_heads
        queries = torch.cat([group * of + places(each, of) for group in kv.tolist()])
        neurons = places(heir.ffn_width, large.ffn_width)
        _plant_block(found, small, layers[new], new, large, (width, queries, kv, neurons))
        heads.append(queries)
        kv_heads.append(kv)
        ffn.append(neurons)
    for old in set(range(large.layers)) - set(layers):
        for name in ("attention.qkv", "ffn.gate_up"):
            found[f"blocks.{old}.{name}.weight"] = noise[f"blocks.{old}.{name}.weight"]
    donor = Donor(Path("donor"), large, found, None)
    return Planted(
        donor, layers, width, torch.stack(heads), torch.stack(kv_heads), torch.stack(ffn)
    )


def _plant_block(
    found: dict[str, Tensor],
    small: Mapping[str, Tensor],
    old: int,
    new: int,
    large: Architecture,
    kept: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    width, queries, kv, neurons = kept
    one = torch.arange(large.head_width)

    def rows(heads: Tensor) -> Tensor:
        return (heads[:, None] * large.head_width + one).flatten()

    qkv = rows(torch.cat((queries, large.heads + kv, large.heads + large.kv_heads + kv)))
    gate_up = torch.cat((neurons, large.ffn_width + neurons))
    for name, at in (
        ("attention.qkv", (qkv[:, None], width[None])),
        ("attention.output", (width[:, None], rows(queries)[None])),
        ("ffn.gate_up", (gate_up[:, None], width[None])),
        ("ffn.down", (width[:, None], neurons[None])),
    ):
        found[f"blocks.{old}.{name}.weight"][at] = small[f"blocks.{new}.{name}.weight"]
    for name in ("attention_norm", "ffn_norm"):
        found[f"blocks.{old}.{name}.weight"][width] = small[f"blocks.{new}.{name}.weight"]


def model_of(donor: Donor) -> Decoder:
    return decoder_of(donor.weights, donor.architecture, CPU)


@torch.no_grad()
def spoken(model: Decoder, sequences: int = 64, seed: int = 0) -> Tensor:
    """Tokens (sequence, context + 1) that the model itself says, so that no other fits better."""
    chance = torch.Generator().manual_seed(seed)
    tokens = torch.randint(model.shape.vocabulary, (sequences, 1), generator=chance)
    for _ in range(model.shape.context):
        likely = model(tokens)[:, -1].softmax(-1)
        tokens = torch.cat((tokens, torch.multinomial(likely, 1, generator=chance)), dim=1)
    return tokens
