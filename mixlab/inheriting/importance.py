"""How much each unit matters: four criteria.

    l1       sum of |w| over a unit's weights
    l2       sum of w^2
    taylor   sum of |w * dL/dw|, L the mean loss of a calibration batch, averaged over batches:
             to first order, what the loss changes by where a weight is set to 0
    masks    learned: gates in [0, 1] that are trained to keep the loss low (masks.py)

In l1 and l2 a weight that reads the normed stream counts with the norm's gain, which is as much
a part of it; the gains themselves count for Taylor alone.

Sources: L1, L2 and Taylor as criteria of PanGu-pi Pro, arXiv 2402.02791; |w * dL/dw| is of
Molchanov et al., arXiv 1611.06440, summed over a structure's weights as in LLM-Pruner
(arXiv 2305.11627).
Limits: magnitudes know nothing of the data; a unit whose output nobody uses looks important.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from mixlab.errors import InvalidLoss
from mixlab.inheriting.calibration import Progress, batch_loss, batches, silent
from mixlab.inheriting.units import Scores, scores_of
from mixlab.training.decoder import Decoder


@torch.no_grad()
def magnitude(decoder: Decoder, importance: Literal["l1", "l2"]) -> Scores:
    """Scores from the weights alone."""
    weights = dict(decoder.named_parameters())
    measure: Callable[[Tensor], Tensor] = torch.abs if importance == "l1" else torch.square

    def measured(name: str) -> Tensor:
        weight: Tensor = weights[name]
        if weight.ndim == 1:
            return torch.zeros_like(weight)
        gain = _GAIN_OF.get(name.rpartition(".")[0].split(".", 2)[-1])
        if gain is not None:
            weight = weight * weights[name.replace(f"{gain[0]}.weight", f"{gain[1]}.weight")]
        return measure(weight)

    return scores_of(measured, decoder.shape)


# What reads a normed stream, and the norm: names within a block, or the head's.
_GAIN_OF = {
    "attention.qkv": ("attention.qkv", "attention_norm"),
    "ffn.gate_up": ("ffn.gate_up", "ffn_norm"),
    "head": ("head", "norm"),
}


def taylor(
    decoder: Decoder, tokens: Tensor, layers: Sequence[int], progress: Progress = silent
) -> Scores:
    """First-order scores, of as many backward passes as the calibration has batches.

    `layers` are the numbers that the decoder's layers have in the donor, for errors.

    Raises InvalidLoss, naming the layer, for gradients that are no numbers.
    """
    device = decoder.embedding.weight.device
    weights = dict(decoder.named_parameters())
    decoder.requires_grad_(True)
    try:
        total: Scores | None = None
        parts = list(batches(tokens))
        for done, batch in enumerate(parts, start=1):
            loss = batch_loss(decoder, batch.to(device))
            found = torch.autograd.grad(loss, list(weights.values()))
            gradients = dict(zip(weights, found, strict=True))
            check_gradients(gradients, layers)
            scores = scores_of(partial(_first_order, weights, gradients), decoder.shape)
            total = scores if total is None else total + scores
            progress("importance", done, len(parts))
    finally:
        decoder.requires_grad_(False)
    assert total is not None
    return total


def _first_order(
    weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor], name: str
) -> Tensor:
    return (weights[name].detach() * gradients[name]).abs()


def check_gradients(gradients: Mapping[str, Tensor], layers: Sequence[int]) -> None:
    """Raise InvalidLoss for gradients that are NaN or infinite, naming the layer they arise in.

    Gradients go from the last layer to the first, so the last of them is the one to name.
    """
    wrong = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
    if not wrong:
        return
    where = next((name for name in reversed(wrong) if name.startswith("blocks.")), wrong[-1])
    if where.startswith("blocks."):
        _, number, rest = where.split(".", 2)
        where = f"layer {layers[int(number)]} ({rest})"
    raise InvalidLoss(
        f"The loss has gradients that are no numbers (NaN or infinite) by {where}, so that no "
        'importance can be told from them; take another checkpoint, or the criterion "l2".'
    )
