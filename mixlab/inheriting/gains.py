"""What norms are multiplied by when dimensions of the residual stream are left out.

RMSNorm divides by sqrt(mean of squares over all d dimensions); over the d' that stay the mean is
another one. For the dimensions that stay to be as they were, the gain has to take the factor

    sqrt(mean over d' of x^2) / sqrt(mean over d of x^2)

which is sqrt(d / d') where those left out are 0 (then the heir computes the donor's function),
and near 1 where they are like the others. It differs from token to token; the mean over the
calibration's tokens is taken. A choice made here; slicing alone leaves it at 1.
"""

from typing import Any

import torch
from torch import Tensor, nn

from mixlab.inheriting.calibration import batches
from mixlab.training.decoder import Decoder, Norm


@torch.no_grad()
def measure_gains(decoder: Decoder, tokens: Tensor, width: Tensor) -> list[float]:
    """Factors of the norms for the dimensions that stay: two per layer, and the last one's."""
    norms = [module for module in decoder.modules() if isinstance(module, Norm)]
    if len(width) == decoder.shape.width:
        return [1.0] * len(norms)
    device = decoder.embedding.weight.device
    kept = width.to(device)
    sums = torch.zeros(len(norms), dtype=torch.float64, device=device)

    def watch(number: int) -> Any:
        def add(_: nn.Module, given: tuple[Tensor]) -> None:
            squares = given[0].double().square()
            all_of, some = squares.mean(-1), squares[..., kept].mean(-1)
            # A token whose stream is 0 everywhere stays 0, whatever the factor.
            ratio = (some / all_of.clamp(min=torch.finfo(all_of.dtype).tiny)).sqrt()
            sums[number] += ratio.sum()

        return add

    order = [_place(decoder, norm) for norm in norms]
    hooks = [norm.register_forward_pre_hook(watch(i)) for norm, i in zip(norms, order, strict=True)]
    try:
        for batch in batches(tokens):
            decoder.features(batch[:, :-1].to(device))
    finally:
        for hook in hooks:
            hook.remove()
    return (sums / tokens[:, 1:].numel()).tolist()


def _place(decoder: Decoder, norm: nn.Module) -> int:
    for number, block in enumerate(decoder.blocks):
        if norm is block.attention_norm:
            return 2 * number
        if norm is block.ffn_norm:
            return 2 * number + 1
    return 2 * len(decoder.blocks)
