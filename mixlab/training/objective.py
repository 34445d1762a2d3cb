"""What is minimised: the cross entropy of the next token, as a module that can be wrapped.

    forward(tokens)             sum over rows and places of -ln p(next token given those before)
    forward(tokens, each=True)  its terms, without gradients; 0 where the target is IGNORED

Everything that has a gradient goes through `forward`, because DistributedDataParallel and FSDP
see a module's call and nothing else. Names of weights are the decoder's.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mixlab.training.decoder import Decoder
from mixlab.training.head import loss_sum, token_losses


class NextTokenLoss(nn.Module):
    """The training loss of a decoder, in nats."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, tokens: Tensor, *, each: bool = False) -> Tensor:
        """The loss summed over tokens (row, place + 1), a scalar that can be differentiated.

        With `each` its terms (row, place), without gradients.
        """
        # Contiguous, so that every micro-batch has the strides that the blocks were compiled for.
        inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].flatten()
        if each:
            with torch.no_grad():
                features = self.decoder.features(inputs.clamp(min=0)).flatten(0, 1)
            return token_losses(features, self.decoder.head.weight, targets).view(inputs.shape)
        features = self.decoder.features(inputs).flatten(0, 1)
        return loss_sum(features, self.decoder.head.weight, targets)


def recompute(blocks: Iterable[nn.Module]) -> None:
    """Keep only each block's input for its gradient, and compute the rest of it once more.

    A third more arithmetic for the memory of one block instead of all; gradients are equal.
    """
    for block in blocks:
        block.recomputed = True  # type: ignore[assignment]
