"""This rank's part of each update's batch, on its device, in micro-batches.

Batches are pure functions of the step (corpora/sampling.py), so the next one can be read by a
thread while the device works on this one, and a run that goes back only asks for another
step. On the CPU reading ahead would take the cores that compute, so it is for CUDA, where the
copy goes through pinned memory and waits for nothing.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from mixlab.corpora.sampling import Sampler
from mixlab.recipes import Recipe
from mixlab.training.data import check_tokens
from mixlab.training.parallel import World
from mixlab.training.placement import micro_batch


class Batches:
    """Micro-batches of updates, counted from 1. Close it, for its thread."""

    def __init__(
        self,
        sampler: Sampler,
        recipe: Recipe,
        world: World,
        *,
        at_most: int | None = None,
        ahead: bool | None = None,
    ) -> None:
        self.sampler, self.recipe, self.world = sampler, recipe, world
        self._at_most = at_most  # sequences at a time
        device = world.device
        wanted = device.type == "cuda" if ahead is None else ahead
        self._thread = ThreadPoolExecutor(1, initializer=_use(device)) if wanted else None
        self._next: tuple[int, Future[list[Tensor]]] | None = None

    def of(self, step: int) -> list[Tensor]:
        """Tokens (row, context + 1) of this rank's micro-batches of update `step`."""
        parts = self._taken(step)
        if self._thread is not None and step < self.recipe.steps:
            self._next = step + 1, self._thread.submit(self._read, step + 1)
        return [part.to(self.world.device, non_blocking=True) for part in parts]

    def _taken(self, step: int) -> list[Tensor]:
        expected, self._next = self._next, None
        if expected is None or expected[0] != step:
            return self._read(step)
        return expected[1].result()

    def _read(self, step: int) -> list[Tensor]:
        sequences = self.recipe.sequences(step)
        at_once = micro_batch(
            self.recipe,
            self.world.device,
            sequences=sequences,
            ranks=self.world.size,
            at_most=self._at_most,
        )
        parts = [np.arange(sequences)[rows] for rows in self.world.parts(sequences, at_once)]
        read = self.sampler.batch(step - 1, rows=np.concatenate(parts))
        check_tokens(int(read.max()), self.recipe, f"The training tokens of update {step}")
        tokens = torch.from_numpy(read)
        if self.world.device.type == "cuda":
            tokens = tokens.pin_memory()
        return list(torch.split(tokens, [len(part) for part in parts]))

    def close(self) -> None:
        """End the thread that reads ahead."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)


def _use(device: torch.device) -> Callable[[], None]:
    """Makes a thread pin memory for this rank's device; each thread begins with the first one."""
    index = device.index
    return (lambda: None) if index is None else lambda: torch.cuda.set_device(index)
