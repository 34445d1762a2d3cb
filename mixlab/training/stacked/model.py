"""The training loss of stacked runs, and one run of a stack as a decoder of its own."""

import torch
from torch import Tensor, nn

from mixlab.recipes import Recipe
from mixlab.training.decoder import Block, Decoder
from mixlab.training.head import loss_sums
from mixlab.training.objective import recompute
from mixlab.training.placement import autocast, compile_blocks


class StackedLoss(nn.Module):
    """Cross entropy of the next token of every run, each by its own weights."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, tokens: Tensor) -> Tensor:
        """Losses in nats summed over a run's tokens, shape (run,).

        Of tokens (run, sequence, place + 1); what one run reads reaches no other's loss.
        """
        # Contiguous, so that every micro-batch has the strides that blocks were compiled for.
        features = self.decoder.features(tokens[..., :-1].contiguous())
        return loss_sums(features, self.decoder.head.weight, tokens[..., 1:].flatten(1))


def alone(stack: Decoder, run: int) -> Decoder:
    """One run as a decoder whose weights are the stack's own memory."""
    with torch.device("meta"):
        decoder = Decoder(stack.shape)
    for name, weight in stack.named_parameters():
        holder, _, leaf = name.rpartition(".")
        setattr(decoder.get_submodule(holder), leaf, nn.Parameter(weight.detach()[run]))
    if stack.shape.tied_head:
        decoder.head.weight = decoder.embedding.weight
    decoder.rotation = stack.rotation
    return decoder


def compiled(decoder: Decoder, recipe: Recipe, sequences: int, device: torch.device) -> str:
    """Compile the blocks in place where the recipe asks for it; says which way it went.

    Kernels are compiled in the default mode. CUDA graphs (mode "reduce-overhead") would spare
    launches, but those are what stacking has already spread over its runs, and graphs pin a
    second set of activations in memory, of which a stack has use for more runs.
    """
    if not recipe.compiled:
        return "eager"
    shape, runs = recipe.architecture, decoder.runs or 1
    probe = Block(shape, (runs,)).to(device)
    if recipe.activation_checkpointing:
        recompute([probe])
    tokens = sequences * shape.context
    x = torch.zeros(runs, tokens, shape.width, device=device, requires_grad=True)
    with autocast(device, recipe.precision):
        return compile_blocks(decoder.blocks, probe, (x, decoder.rotation), device)
