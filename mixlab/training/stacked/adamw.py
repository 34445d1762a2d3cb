"""AdamW of stacked runs: one tensor per weight of all runs, a rate for each run.

    g   = gradient * min(1, clip / (norm + 1e-6))              norm over all weights of a run
    m   = m + (1 - beta1) (g - m);  v = beta2 v + (1 - beta2) g^2
    w   = w (1 - rate decay) - rate m / (1 - beta1^n) / (sqrt(v / (1 - beta2^n)) + epsilon)

A run that is left out of an update keeps weights, moments and its count n as they are, whatever
its gradient holds: all is elementwise with factors of shape (run, 1, ...), so nothing passes
from one run to another, and no value has to be read to know whom to leave out.

On CUDA the update is compiled, where a compiler works: one kernel a weight instead of fifteen.
torch's fused AdamW knows one rate a call, so a stack of 64 tiny runs would need 64 calls, which
take longer than the rest of their step.

Source: arXiv 1711.05101; epsilon and the order of operations are torch.optim.AdamW's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mixlab.recipes import Recipe
from mixlab.training.decoder import Decoder
from mixlab.training.optimiser import parameter_groups

Update = Callable[..., None]

EPSILON = 1e-8
CLIP_EPSILON = 1e-6  # as torch.nn.utils.clip_grad_norm_ has it


@dataclass(frozen=True)
class StackedWeight:
    """A weight of all runs, how it learns, and AdamW's state of it; shapes (run, ...)."""

    value: Tensor
    scale: float  # of the run's rate
    decay: float
    first: Tensor  # moments, which may be of less precision
    second: Tensor

    @property
    def gradient(self) -> Tensor:
        """What the backward pass left."""
        gradient = self.value.grad
        assert gradient is not None, "every weight takes part in the loss"
        return gradient

    def state_of(self, run: int) -> dict[str, Tensor]:
        """One run's moments under the names of torch.optim.AdamW; the stack's own memory."""
        return {"exp_avg": self.first[run], "exp_avg_sq": self.second[run]}


class StackedAdamW:
    """Clips and updates every run by itself.

    `counts` are the updates that each run has had, shape (run,).
    """

    def __init__(self, decoder: Decoder, recipe: Recipe) -> None:
        kept = torch.float32 if recipe.moments == "float32" else torch.bfloat16
        self.weights = [
            StackedWeight(
                weight, group["scale"], group["weight_decay"],
                torch.zeros_like(weight, dtype=kept), torch.zeros_like(weight, dtype=kept),
            )
            for group in parameter_groups(decoder, recipe)
            for weight in group["params"]
        ]  # fmt: skip
        device = self.weights[0].value.device
        self.counts = torch.zeros(decoder.runs or 1, dtype=torch.float64, device=device)
        # Factors of a run that is left out. Made once, for a copy to the device waits for it.
        idle = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
        self._idle = idle[:, None].to(device)
        self._clip, self._betas = recipe.gradient_clip, recipe.betas
        self._update: Update = _update
        if device.type == "cuda" and recipe.compiled:
            self._update = compiled_or_eager(_update)

    @torch.no_grad()
    def norms(self) -> Tensor:
        """The norm of each run's gradient over all its weights, shape (run,)."""
        parts = [torch.linalg.vector_norm(one.gradient.flatten(1), dim=1) for one in self.weights]
        whole: Tensor = torch.linalg.vector_norm(torch.stack(parts), dim=0)
        return whole

    @torch.no_grad()
    def step(self, rates: Tensor, norms: Tensor, sound: Tensor) -> None:
        """Update the runs that are `sound` (run,) with their `rates` (run,), and drop gradients.

        `norms` must be finite where runs are sound.
        """
        self.counts += sound
        factors = {
            kind: self._factors(rates * kind[0], kind[1], norms, sound)
            for kind in {(one.scale, one.decay) for one in self.weights}
        }
        for one in self.weights:
            state = one.value.detach(), one.gradient, one.first, one.second
            self._update(*state, factors[one.scale, one.decay], 1 - self._betas[1])
            one.value.grad = None

    def _factors(self, rates: Tensor, decay: float, norms: Tensor, sound: Tensor) -> Tensor:
        """What an update multiplies by, shape (6, run), as `_update` names them.

        Computed in float64, as torch.optim.AdamW does.
        """
        rates = rates.double()
        counts = self.counts.clamp(min=1.0)  # of a run that never had an update it must not be 0
        beta1, beta2 = self._betas
        acting = (
            (self._clip / (norms.double() + CLIP_EPSILON)).clamp(max=1.0),
            torch.full_like(rates, 1 - beta1),
            torch.full_like(rates, beta2),
            1 - rates * decay,
            rates / (1 - beta1**counts),
            (1 - beta2**counts).sqrt(),
        )
        return torch.where(sound, torch.stack(acting), self._idle).float()


def _update(
    value: Tensor, gradient: Tensor, first: Tensor, second: Tensor, factors: Tensor, news: float
) -> None:
    """One weight's update in place."""
    shape = (6, -1, *[1] * (value.ndim - 1))
    clip, moved, kept, weight_kept, length, root = factors.view(shape).unbind()
    # Of a run that is left out, all is 0 now; 0 times what is no number is none, and becomes 0.
    g = gradient.mul_(clip).nan_to_num_(0.0, 0.0, 0.0)
    m, v = first.float(), second.float()
    m.lerp_(g, moved)
    v.mul_(kept).addcmul_(g, g, value=news)
    if m is not first:
        first.copy_(m)
        second.copy_(v)
    # The gradient has done its work and lends its memory: eagerly, fresh memory costs most.
    torch.sqrt(v, out=g).div_(root).add_(EPSILON)
    torch.div(m, g, out=g)
    value.mul_(weight_kept).sub_(g.mul_(length))


def compiled_or_eager(update: Update, backend: str | Callable[..., Any] = "inductor") -> Update:
    """The update compiled; as it is, from the first call on at which compiling fails."""
    # Dynamic, so that weights of all shapes share a kernel: torch compiles no code more than
    # eight times, and would run the others eagerly without a word.
    compiled = torch.compile(update, dynamic=True, backend=backend)
    failed = False

    def call(*values: Any) -> None:
        nonlocal failed
        if not failed:
            try:
                compiled(*values)
                return
            except (RuntimeError, OSError):  # raised before anything was updated
                failed = True
        update(*values)

    return call
