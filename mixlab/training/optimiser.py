"""AdamW with warm-up, then a constant or a cosine rate.

    rate(step) = peak * step / warmup                               up to the warm-up's end
    rate(step) = peak                                               "constant"
    rate(step) = end + (peak - end) * (1 + cos(pi * progress)) / 2  "cosine"

Under a constant rate every checkpoint is a valid run of that many steps, which is what a law
in the step needs. Weight decay acts on matrices (embedding and head among them), not on norms.
Source: arXiv 1711.05101 (AdamW), 1608.03983 (cosine).
"""

import math

import torch
from torch import nn

from mixlab.recipes import Recipe


def learning_rate(recipe: Recipe, step: int) -> float:
    """The rate of update number `step`, counted from 1."""
    peak = recipe.learning_rate
    if step < recipe.warmup_steps:
        return peak * step / recipe.warmup_steps
    if recipe.schedule == "constant":
        return peak
    end = recipe.final_learning_rate or 0.0
    decaying = max(1, recipe.steps - recipe.warmup_steps)
    progress = min(1.0, (step - recipe.warmup_steps) / decaying)
    return end + (peak - end) * (1 + math.cos(math.pi * progress)) / 2


def adamw(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW over the model's parameters, fused into one kernel."""
    weights = list(model.parameters())
    groups = [
        {"params": [w for w in weights if w.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [w for w in weights if w.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, fused=True)
