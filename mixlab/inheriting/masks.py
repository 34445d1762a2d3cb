"""Learned masks: gates of units, trained on the calibration while all weights stay.

    forward    the units of the highest scores stay, exactly as many as the heir has
    backward   dL/d score = dL/d gate, as if the gate were the score (straight through)

Units that are left out have a gradient too, so they can come back. A unit's gate multiplies what
it writes: columns of down (neurons) and of output (query heads), and for hidden dimensions the
embedding and the rows of output and down, so that the stream is 0 there. Scores begin at the ranks
that Taylor gives them, in [0, 1], and are trained by Adam on the calibration batches in turn.

Source: the objective of PanGu-pi Pro's masks is not public. Straight-through gates of the top
scores are of Ramanujan et al., arXiv 1911.13299, and Sanh et al., arXiv 2005.07683; chosen since
they keep the heir's size at every step, with no penalty to tune and nothing drawn by chance.
Limits: fits the calibration itself: of 16,384 tokens, masks of FFN neurons made the loss on them
0.10 nats lower than Taylor's and 0.007 on others. So a quarter is kept from them, on which they
have to be better than what they began with (running.py).
"""

from itertools import cycle, islice

import torch
from torch import Tensor
from torch.func import functional_call

from mixlab.inheriting.calibration import Progress, batch_loss, batches, silent
from mixlab.inheriting.gains import measure_gains
from mixlab.inheriting.units import Scores, chosen
from mixlab.recipes import Architecture
from mixlab.training.decoder import Decoder

STEPS = 100
LEARNING_RATE = 0.01  # a score can cross the whole range of ranks in 100 updates


def learned(
    decoder: Decoder,
    tokens: Tensor,
    begin: Scores,
    heir: Architecture,
    progress: Progress = silent,
) -> Scores:
    """Scores after training, from those of `begin` on."""
    scores = [_ranks(one).requires_grad_() for one in (begin.width, begin.heads, begin.ffn)]
    own = _ranks(begin.kv_heads)
    optimiser = torch.optim.Adam(scores, lr=LEARNING_RATE)
    gains = measure_gains(decoder, tokens, chosen(begin, heir).width)
    # The masked stream is as wide as the donor's, and its mean of squares smaller by that.
    narrow = (heir.width / decoder.shape.width) ** 0.5
    factors = [gain * narrow for gain in gains] if heir.width < decoder.shape.width else gains
    device = decoder.embedding.weight.device
    for done, batch in enumerate(islice(cycle(batches(tokens)), STEPS), start=1):
        gates = _gates(Scores(scores[0], scores[1], own, scores[2]), heir)
        masked = _masked(decoder, [gate.to(device) for gate in gates], factors)
        loss: Tensor = functional_call(_Loss(decoder), masked, (batch.to(device),))
        for score, gradient in zip(scores, torch.autograd.grad(loss, scores), strict=True):
            score.grad = gradient
        optimiser.step()
        progress("masks", done, STEPS)
    width, heads, ffn = (one.detach() for one in scores)
    return Scores(width, heads, own, ffn)


class _Loss(torch.nn.Module):
    """The loss as a module's call, which functional_call needs."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, tokens: Tensor) -> Tensor:
        return batch_loss(self.decoder, tokens)


def _ranks(scores: Tensor) -> Tensor:
    """Ranks along the last axis, from 0 to 1."""
    ranks = scores.argsort(dim=-1, stable=True).argsort(dim=-1)
    return ranks.float() / max(1, scores.shape[-1] - 1)


def _gates(scores: Scores, heir: Architecture) -> list[Tensor]:
    """1 for each unit that stays, else 0: dimensions, query heads and neurons."""
    kept = chosen(
        Scores(
            scores.width.detach(), scores.heads.detach(), scores.kv_heads, scores.ffn.detach()
        ),
        heir,
    )  # fmt: skip
    gates = []
    for score, places in (
        (scores.width, kept.width), (scores.heads, kept.heads), (scores.ffn, kept.ffn)
    ):  # fmt: skip
        hard = torch.zeros_like(score).scatter(-1, places, 1.0)
        gates.append(hard + score - score.detach())
    return gates


def _masked(decoder: Decoder, gates: list[Tensor], factors: list[float]) -> dict[str, Tensor]:
    """The donor's weights with what is left out at 0, as functions of the gates."""
    weights = dict(decoder.named_parameters())
    width, heads, ffn = gates
    table = weights["embedding.weight"] * width
    found = {"embedding.weight": table, "norm.weight": weights["norm.weight"] * factors[-1]}
    if decoder.shape.tied_head:
        found["head.weight"] = table
    for i in range(decoder.shape.layers):
        block = f"blocks.{i}"
        columns = heads[i].repeat_interleave(decoder.shape.head_width)
        for name, gate in (("attention.output.weight", columns), ("ffn.down.weight", ffn[i])):
            found[f"{block}.{name}"] = weights[f"{block}.{name}"] * gate * width[:, None]
        for name, factor in zip(("attention_norm", "ffn_norm"), factors[2 * i :], strict=False):
            found[f"{block}.{name}.weight"] = weights[f"{block}.{name}.weight"] * factor
    return {f"decoder.{name}": weight for name, weight in found.items()}
