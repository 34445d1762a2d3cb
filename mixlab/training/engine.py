"""What computes: the decoder, its loss, its optimiser and its batches, on one rank or many.

gradients(step)    of the mean loss of the step's batch, summed over micro-batches and ranks
apply(step)        AdamW with the rate of that step
"""

from pathlib import Path

import torch
from torch import Tensor

from mixlab.corpora.sampling import Sampler
from mixlab.recipes import Recipe
from mixlab.training.batches import Batches
from mixlab.training.decoder import Block, Decoder
from mixlab.training.evaluation import Validation
from mixlab.training.memory import room
from mixlab.training.objective import NextTokenLoss, recompute
from mixlab.training.optimiser import adamw, learning_rate
from mixlab.training.parallel import World
from mixlab.training.placement import (
    autocast,
    compile_blocks,
    eagerly,
    micro_batch,
)
from mixlab.training.weights import load_weights


class Engine:
    """One run's model. Its weights are the file's, or as `initialise` makes them.

    So they are until a checkpoint fills them. Every rank reads the file, which has the shape.
    """

    def __init__(
        self, recipe: Recipe, sampler: Sampler, seed: int, world: World, weights: Path | None = None
    ) -> None:
        self.recipe, self.world = recipe, world
        self._at_most = _room(recipe, world)
        self.batches = Batches(sampler, recipe, world, at_most=self._at_most)
        self.decoder = Decoder(recipe.architecture)
        if weights is None:
            self.decoder.initialise(seed, base_width=recipe.base_width)
        else:
            load_weights(weights, self.decoder)
        if recipe.activation_checkpointing:
            recompute(self.decoder.blocks)
        self.module = world.placed(NextTokenLoss(self.decoder).to(world.device), recipe)
        self.optimiser = adamw(self.module, recipe)
        self._how = "eager"

    @property
    def execution(self) -> str:
        """Where and how it computes: "cpu, eager", "8 x cuda, compiled", ..."""
        ranks = "" if self.world.size == 1 else f"{self.world.size} x "
        return f"{ranks}{self.world.device.type}, {self._how}"

    def compile(self) -> None:
        """Compile the blocks, where the recipe asks for it and every rank can."""
        if not self.recipe.compiled:
            return
        shape, device = self.recipe.architecture, self.world.device
        probe = Block(shape).to(device)
        if self.recipe.activation_checkpointing:
            recompute([probe])
        rows = self._rows()
        x = torch.zeros(rows, shape.context, shape.width, device=device, requires_grad=True)
        with autocast(device, self.recipe.precision):
            self._how = compile_blocks(
                self.decoder.blocks,
                probe,
                (x, self.decoder.rotation),
                device,
                agree=self.world.any,
            )

    def _rows(self) -> int:
        """Sequences of a micro-batch of the first update."""
        world = self.world
        return micro_batch(self.recipe, world.device, ranks=world.size, at_most=self._at_most)

    def gradients(self, step: int) -> tuple[Tensor, Tensor]:
        """This rank's part of the step's mean loss, and the norm of the gradient before the clip.

        Both stay on the device: reading them waits for it.
        """
        tokens = self.recipe.sequences(step) * self.recipe.architecture.context
        total = torch.zeros((), device=self.world.device)
        parts = self.batches.of(step)
        for number, part in enumerate(parts, start=1):
            with self.world.accumulating(self.module, last=number == len(parts)):
                with autocast(self.world.device, self.recipe.precision):
                    loss = self.module(part)
                loss = loss / tokens
                loss.backward()
            total += loss.detach()
        return total, self.world.clip(self.module.parameters(), self.recipe.gradient_clip)

    def apply(self, step: int) -> None:
        """Update the weights by the gradients of `gradients`."""
        rate = learning_rate(self.recipe, step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        self.optimiser.step()
        self.optimiser.zero_grad()

    def discard(self) -> None:
        """Leave the update out: weights and AdamW's state stay as they are."""
        self.optimiser.zero_grad()

    def evaluate(self, validation: Validation) -> dict[str, float]:
        """Loss of each domain in nats per token."""
        # Without gradients out here too: else DDP would expect a backward pass, and take the next
        # micro-batch's, which is only to be accumulated, for it.
        device, precision = self.world.device, self.recipe.precision
        with torch.no_grad(), eagerly(self._how), autocast(device, precision):
            return validation.losses(
                lambda tokens: self.module(tokens, each=True),
                self.world,
                sequences=self._rows(),
            )


def _room(recipe: Recipe, world: World) -> int | None:
    """Sequences at a time that every rank's device holds; None where that isn't looked at."""
    sharded = world.shards(recipe)
    here = room(recipe, world.device, ranks=world.size, sharded=sharded)
    found = [one for one in world.together(lambda: here) if one is not None]
    return min(found, default=None)
