"""AdamW whose moments are kept in bfloat16: half the memory of its state.

    m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2
    w = w - rate (decay w + (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon))

The arithmetic is torch's fused kernel on float32 copies, so with float32 moments the two agree
to the last bit; only what is kept between updates is rounded. With its float32 weight and
gradient a parameter takes 12 bytes instead of 16.

Rounding does not stop the moments: bfloat16 has 8 significant bits, so a change by more than
2^-8 of a value always moves it, and news draw a moment by 1 - beta of the way, 0.05 for v and
0.1 for m. At rest v is within 8 % of g^2, which is 4 % of the update. With a beta of 0.999 v
could never shrink; recipes refuse that.

Weights go in chunks, so that the float32 copies never fill memory.
Source: arXiv 1711.05101 (AdamW). State: exp_avg, exp_avg_sq (of the weight's shape and
placement) and step (float32 scalar on the CPU), plain tensors that
torch.distributed.checkpoint saves. Limits: no sparse gradients, no closures.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

MOMENTS = ("exp_avg", "exp_avg_sq")
# Values at a time: their float32 copies stay in a core's cache; a device wants more.
CHUNK = {"cpu": 1 << 18, "cuda": 1 << 26}


class RoundedAdamW(torch.optim.Optimizer):
    """AdamW with moments of the given number format."""

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        moments: torch.dtype = torch.bfloat16,
    ) -> None:
        self.moments = moments
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every weight that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, group)

    def _update(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            for name in MOMENTS:
                state[name] = torch.zeros_like(weight, dtype=self.moments)
        tensors = (weight, gradient, state["exp_avg"], state["exp_avg_sq"])
        for chunk in _chunks(*(_own(one) for one in tensors)):
            _update_chunk(*chunk, done=state["step"], group=group)
        state["step"] += 1

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Give loaded moments their format back: torch turns them into the weight's."""
        super().__setstate__(state)
        for one in self.state.values():
            for name in MOMENTS:
                one[name] = one[name].to(self.moments)


def _update_chunk(
    weight: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, *, done: Tensor,
    group: dict[str, Any],
) -> None:  # fmt: skip
    """Update a weight and its moments in place, as the update after `done` others."""
    exact_mean, exact_square = mean.float(), square.float()
    adamw(
        [weight], [gradient], [exact_mean], [exact_square], [],
        [done.to(weight.device, copy=True)],  # the kernel counts it up
        fused=True, amsgrad=False, maximize=False, beta1=group["betas"][0],
        beta2=group["betas"][1], lr=group["lr"], weight_decay=group["weight_decay"],
        eps=group["eps"],
    )  # fmt: skip
    mean.copy_(exact_mean)
    square.copy_(exact_square)


def _own(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor, sharing its memory, as one row of values."""
    # By name, because importing DTensor takes longer than everything else here.
    to_local = getattr(tensor, "to_local", None)
    local: Tensor = tensor if to_local is None else to_local()
    return local.view(-1)


def _chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    size = CHUNK.get(tensors[0].device.type, CHUNK["cuda"])
    for first in range(0, len(tensors[0]), size):
        yield tuple(one[first : first + size] for one in tensors)
