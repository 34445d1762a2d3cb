"""A donor, a shape and calibration tokens in; an heir's weights and what was chosen out.

OUT/weights.safetensors   as a run leaves them: to begin a run with, to export, to inherit from
OUT/inheritance.json      layers and units that stayed, per layer, with what was measured
OUT/tokenizer.json        the donor's, where it is known
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mixlab.corpora.files import check_free, write_folder
from mixlab.errors import InvalidRecipe
from mixlab.inheriting.calibration import Progress, check_finite, mean_loss, silent
from mixlab.inheriting.donors import TOKENIZER, Donor
from mixlab.inheriting.gains import measure_gains
from mixlab.inheriting.importance import magnitude, taylor
from mixlab.inheriting.layers import LayerChoice, choose_layers
from mixlab.inheriting.masks import learned
from mixlab.inheriting.slicing import decoder_of, sliced, without_layers
from mixlab.inheriting.units import Choice, Scores, chosen, everything, kept_shares
from mixlab.recipes import Architecture
from mixlab.recipes.heirs import IMPORTANCES, Importance, check_heir
from mixlab.recipes.noted import NOTE
from mixlab.training.decoder import Decoder
from mixlab.training.placement import chosen_device, deterministic
from mixlab.training.weights import WEIGHTS

REPORT = "inheritance.json"


@dataclass(frozen=True)
class Inheritance:
    """An heir, and why it is what it is."""

    architecture: Architecture
    weights: Mapping[str, Tensor]  # by the decoder's names, in float32 on the CPU
    report: Mapping[str, Any]  # JSON-ready: losses, layers, units per layer


@dataclass(frozen=True)
class _Cut:
    """What stays of the donor's kept layers."""

    choice: Choice
    gains: list[float]
    weights: dict[str, Tensor]
    loss_nats: float
    scores: Scores | None  # None where no unit had to go


def inherit(
    donor: Donor,
    shape: Architecture,
    tokens: Tensor,
    *,
    importance: Importance = "taylor",
    out: Path | None = None,
    progress: Progress = silent,
) -> Inheritance:
    """Cut a smaller shape out of the donor, by what it does on `tokens` (sequence, place + 1).

    An heir of the donor's own shape is the donor, to the bit. With `out`, a new folder, it is
    written there. Works on the CUDA device where there is one. `progress` is told of each layer
    that was left out for a trial, of each batch of gradients and each update of masks.

    Raises InvalidRecipe for a shape that the donor can't give, InvalidLoss for values or
    gradients that are no numbers, naming the layer, and AlreadyExists for a folder that holds
    something; all but the gradients before any work.
    """
    if importance not in IMPORTANCES:
        raise InvalidRecipe(
            f"There is no importance {importance!r}; there are {', '.join(IMPORTANCES)}."
        )
    check_heir(donor.architecture, shape)
    _check_tokens(tokens, donor.architecture)
    if out is not None:
        check_free(out)
    device = chosen_device()
    with deterministic(device, None):
        whole = decoder_of(donor.weights, donor.architecture, device)
        check_finite(whole, tokens)
        layers = choose_layers(whole, tokens, shape.layers, progress)
        del whole
        cut = _cut(donor, layers, shape, tokens, importance, device, progress)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # other processes may train the heir on this device
    found = Inheritance(
        shape, cut.weights, _report(donor, layers, shape, cut, importance, tokens)
    )  # fmt: skip
    if out is not None:
        _write(found, donor, out)
    return found


def _check_tokens(tokens: Tensor, donor: Architecture) -> None:
    if tokens.ndim != 2 or tokens.shape[1] < 2 or not len(tokens):
        raise InvalidRecipe(
            f"Calibration tokens have the shape (sequence, place + 1), not {tuple(tokens.shape)}."
        )
    if tokens.shape[1] - 1 > donor.context:
        raise InvalidRecipe(
            f"Calibration sequences of {tokens.shape[1] - 1} tokens are longer than the donor's "
            f"context of {donor.context}; give shorter ones."
        )
    if int(tokens.max()) >= donor.vocabulary:
        raise InvalidRecipe(
            f"Calibration holds the token {int(tokens.max())}, but the donor's vocabulary ends at "
            f"{donor.vocabulary - 1}; tokenise the corpus with the donor's tokenizer."
        )


def _cut(
    donor: Donor,
    layers: LayerChoice,
    shape: Architecture,
    tokens: Tensor,
    importance: Importance,
    device: torch.device,
    progress: Progress,
) -> _Cut:
    """The heir, from the layers that stay."""
    between = replace(donor.architecture, layers=shape.layers)
    weights = without_layers(donor.weights, layers.kept)
    decoder = decoder_of(weights, between, device)

    def cut_by(choice: Choice, scores: Scores | None) -> _Cut:
        gains = measure_gains(decoder, tokens, choice.width)
        own = sliced(weights, between, shape, choice, gains)
        loss = mean_loss(decoder_of(own, shape, device), tokens)
        return _Cut(choice, gains, own, loss, scores)

    sizes = ("width", "heads", "kv_heads", "ffn_width")
    if all(getattr(shape, size) == getattr(between, size) for size in sizes):
        return cut_by(everything(between), None)
    scores = _scores(decoder, tokens, importance, layers.kept, progress)
    found = cut_by(chosen(scores, shape), scores)
    if importance != "masks":
        return found
    # Compared on sequences that the masks were not trained on, where there are enough.
    unseen = tokens[: len(tokens) // 4] if len(tokens) > 3 else tokens
    masked = learned(decoder, tokens[len(tokens) // 4 :], scores, shape, progress)
    trained = cut_by(chosen(masked, shape), masked)
    before, after = (
        mean_loss(decoder_of(one.weights, shape, device), unseen) for one in (found, trained)
    )
    return trained if after < before else found


def _scores(
    decoder: Decoder,
    tokens: Tensor,
    importance: Importance,
    layers: list[int],
    progress: Progress,
) -> Scores:
    """Of "masks" those that they begin with."""
    if importance in ("l1", "l2"):
        return magnitude(decoder, importance)
    return taylor(decoder, tokens, layers, progress)


def _report(
    donor: Donor,
    layers: LayerChoice,
    shape: Architecture,
    cut: _Cut,
    importance: Importance,
    tokens: Tensor,
) -> dict[str, Any]:
    """What was chosen and measured, layer by layer."""
    shares = None if cut.scores is None else kept_shares(cut.scores, cut.choice)
    between = layers.dropped[-1][1] if layers.dropped else layers.loss_nats
    return {
        "donor": {"folder": str(donor.folder), "architecture": asdict(donor.architecture)},
        "heir": asdict(shape),
        "parameters": {"donor": donor.architecture.parameters, "heir": shape.parameters},
        "importance": importance,
        "calibration": {"sequences": len(tokens), "context": tokens.shape[1] - 1},
        "loss_nats": {
            "donor": layers.loss_nats,
            "without_layers": _number(between),
            "heir": _number(cut.loss_nats),
        },
        "layers": {
            "kept": layers.kept,
            "sensitivity_nats": [_number(one) for one in layers.sensitivity_nats],
            "dropped": [
                {"layer": layer, "loss_nats": _number(loss)} for layer, loss in layers.dropped
            ],
        },
        "width": {
            "kept": cut.choice.width.tolist(),
            "importance_kept": None if shares is None else shares["width"],
            "last_norm_gain": cut.gains[-1],
        },
        "blocks": [_block(i, layer, cut, shares) for i, layer in enumerate(layers.kept)],
    }


def _block(i: int, layer: int, cut: _Cut, shares: dict[str, Any] | None) -> dict[str, Any]:
    kinds = ("heads", "kv_heads", "ffn")
    return {
        "donor_layer": layer,
        "norm_gains": cut.gains[2 * i : 2 * i + 2],
        "importance_kept": None if shares is None else {kind: shares[kind][i] for kind in kinds},
        **cut.choice.of_block(i),
    }


def _number(value: float | None) -> float | None:
    """None where it is no number, which JSON doesn't have."""
    return value if value is not None and math.isfinite(value) else None


def _write(found: Inheritance, donor: Donor, out: Path) -> None:
    run = {
        "architecture": asdict(found.architecture),
        "inherited_from": str(donor.folder),
        "importance": found.report["importance"],
        "layers": found.report["layers"]["kept"],
    }

    def write(aside: Path) -> None:
        save_file(dict(found.weights), aside / WEIGHTS, {NOTE: json.dumps(run)})
        (aside / REPORT).write_text(json.dumps(found.report, indent=2), encoding="utf-8")
        if donor.tokenizer is not None:
            (aside / TOKENIZER).write_bytes(donor.tokenizer.read_bytes())

    write_folder(out, write)
