"""What computes in a stack: weights, batches and AdamW of all runs on one device.

gradients(step)            of each run's mean loss over the step's batch
apply(rates, norms, sound) AdamW of the runs that are sound
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mixlab.corpora.sampling import TokenWindows
from mixlab.mixture import Mixture
from mixlab.recipes import Recipe
from mixlab.schedules import MixtureSchedule
from mixlab.training.decoder import Decoder
from mixlab.training.objective import recompute
from mixlab.training.placement import autocast
from mixlab.training.stacked.adamw import StackedAdamW
from mixlab.training.stacked.batches import StackedBatches, micro_batch
from mixlab.training.stacked.model import StackedLoss, compiled


class StackedEngine:
    """The models of all runs, as their seeds initialise them."""

    def __init__(
        self, recipe: Recipe, streams: Mapping[str, TokenWindows],
        runs: Sequence[tuple[Mixture | MixtureSchedule, int]], device: torch.device,
    ) -> None:  # fmt: skip
        self.recipe, self.device = recipe, device
        self.batches = StackedBatches(recipe, streams, runs, device)
        self.decoder = Decoder(recipe.architecture, runs=len(runs))
        self.decoder.initialise([seed for _, seed in runs], base_width=recipe.base_width)
        if recipe.activation_checkpointing:
            recompute(self.decoder.blocks)
        self.loss = StackedLoss(self.decoder.to(device))
        self.optimiser = StackedAdamW(self.decoder, recipe)
        self.execution = "eager"

    def compile(self) -> None:
        """Compile the blocks, where the recipe asks for it and a compiler works."""
        first = self.recipe.batch_sequences
        rows = micro_batch(self.recipe, self.device, self.batches.runs, first)
        self.execution = compiled(self.decoder, self.recipe, rows, self.device)

    def gradients(self, step: int) -> tuple[Tensor, Tensor]:
        """Each run's mean loss over the step's batch, and its gradient's norm; shapes (run,).

        Both stay on the device: reading them waits for it.
        """
        tokens = self.recipe.sequences(step) * self.recipe.architecture.context
        losses = torch.zeros(self.batches.runs, device=self.device)
        for part in self.batches.of(step):
            with autocast(self.device, self.recipe.precision):
                some = self.loss(part) / tokens
            some.sum().backward()
            losses += some.detach()
        return losses, self.optimiser.norms()

    def apply(self, rates: Sequence[float], norms: Tensor, sound: Tensor) -> None:
        """Update the runs that are sound (run,) with their rates."""
        given = torch.tensor(rates, dtype=torch.float64)
        self.optimiser.step(given.to(self.device, non_blocking=True), norms, sound)
