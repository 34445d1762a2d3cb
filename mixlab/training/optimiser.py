"""AdamW: learning rates by update, and which weights learn and decay how fast.

    rate(step) = peak * step / warmup                                 up to the warm-up's end
    rate(step) = peak                                                 "constant"
    rate(step) = end + (peak - end) * (1 + cos(pi * progress)) / 2    "cosine"
    rate(step) = peak + (end - peak) * progress                       "wsd", in its decay

`progress` runs from 0 to 1 over the updates after the warm-up, of "wsd" over the last
`decay_steps`; the last update has the end rate. Under a constant rate every checkpoint is a
valid run of that many steps, which is what a law in the step needs; "wsd" gives a decayed end
point for the decay alone (`Recipe.decayed`). Steps are weight updates, never micro-batches.

With `base_width` the rate was tuned at that width, and by maximal update every matrix that
reads the stream (those of the blocks, and the head) learns at rate * base_width / width, while
embedding and norms learn at the rate itself. Weight decay acts on matrices, not on norms, and
is independent of that factor: AdamW multiplies a weight by 1 - rate * decay, so the decay of a
group is divided by its factor, and every matrix forgets over the same number of updates
1 / (rate * decay) at every width. Divided rates alone would let a wide model forget more
slowly, and its optimum move (arXiv 2405.13698).

Sources: arXiv 1711.05101 (AdamW), 1608.03983 (cosine), 2405.18392 (wsd), 2203.03466 table 3
(maximal update of Adam). Limits: maximal update says nothing of depth or of the batch; head
widths and the ratio of FFN to width must stay as they were at the base width.
"""

import math
from typing import Any

import torch
from torch import nn

from mixlab.recipes import Recipe
from mixlab.training.rounded import RoundedAdamW


def learning_rate(recipe: Recipe, step: int) -> float:
    """The rate of update number `step`, counted from 1, before any group's scale."""
    peak, end = recipe.learning_rate, recipe.final_learning_rate or 0.0
    if step < recipe.warmup_steps:
        return peak * step / recipe.warmup_steps
    if recipe.schedule == "cosine":
        progress = _progress(step, recipe.warmup_steps, recipe.steps)
        return end + (peak - end) * (1 + math.cos(math.pi * progress)) / 2
    if recipe.schedule == "wsd":
        progress = _progress(step, recipe.steps - recipe.decay_steps, recipe.steps)
        return (1 - progress) * peak + progress * end
    return peak


def _progress(step: int, first: int, last: int) -> float:
    return max(0.0, min(1.0, (step - first) / max(1, last - first)))


def adamw(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW over the model's parameters: torch's, fused into one kernel, or with small moments.

    Each group has a "scale": the loop sets `group["lr"] = learning_rate(recipe, step) *
    group["scale"]`.
    """
    if recipe.moments == "bfloat16":
        return RoundedAdamW(
            parameter_groups(model, recipe), lr=recipe.learning_rate, betas=recipe.betas
        )
    return torch.optim.AdamW(
        parameter_groups(model, recipe), lr=recipe.learning_rate, betas=recipe.betas, fused=True
    )


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """The model's parameters by how they learn: groups with lr, scale and weight_decay.

    Kinds are told by the decoder's names, whatever wraps it and however many runs are stacked:
    embedding, norms, and all else, which are matrices that read the stream.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        norm = name.endswith("norm.weight")
        scale = 1.0 if norm or name.endswith("embedding.weight") else recipe.reading_scale
        decay = 0.0 if norm else recipe.weight_decay / scale
        groups.setdefault((scale, decay), []).append(weight)
    return [
        {"params": weights, "lr": recipe.learning_rate * scale, "scale": scale,
         "weight_decay": decay}
        for (scale, decay), weights in groups.items()
    ]  # fmt: skip
