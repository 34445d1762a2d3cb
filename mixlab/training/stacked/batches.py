"""The batches of stacked runs, several steps at a time.

Which sequence comes next depends on its number alone (corpora/turns.py), so a sampler whose
batches are as large as several steps reads those steps in one call. A call costs half a
millisecond or more whatever it reads; 64 tiny runs read step by step would keep a GPU waiting.
Runs share the open streams. As for a run alone, a thread reads ahead on CUDA only
(training/batches.py).
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from mixlab.corpora.sampling import Sampler, TokenWindows
from mixlab.mixture import Mixture
from mixlab.recipes import Recipe
from mixlab.schedules import MixtureSchedule
from mixlab.training import placement

# Of all runs; bounds the memory of what is read ahead to twice 8 bytes a token.
TOKENS_AT_ONCE = 1 << 22
STEPS_AT_ONCE = 16


class StackedBatches:
    """Micro-batches of updates counted from 1; as a context manager it ends its thread."""

    def __init__(
        self,
        recipe: Recipe,
        streams: Mapping[str, TokenWindows],
        runs: Sequence[tuple[Mixture | MixtureSchedule, int]],
        device: torch.device,
        *,
        ahead: bool | None = None,
    ) -> None:
        """Runs are mixtures and seeds; `ahead` reads ahead, by default on CUDA."""
        self.recipe, self.device, self.runs = recipe, device, len(runs)
        tokens = recipe.tokens_per_step * len(runs)
        # Batches that grow have no multiple that all steps share.
        self.steps = max(1, min(STEPS_AT_ONCE, TOKENS_AT_ONCE // tokens, recipe.steps))
        if recipe.batch_stages:
            self.steps = 1
        self._samplers = [
            Sampler(
                streams, mixture,
                context=recipe.architecture.context,
                batch_sequences=recipe.batch_sequences * self.steps,
                batch_stages=recipe.batch_stages,
                seed=seed,
            )
            for mixture, seed in runs
        ]  # fmt: skip
        cuda = device.type == "cuda"
        self._thread = ThreadPoolExecutor(1) if (cuda if ahead is None else ahead) else None
        self._next: tuple[int, Future[Tensor]] | None = None
        self._block: tuple[int, Tensor] | None = None

    def of(self, step: int) -> list[Tensor]:
        """Tokens (run, row, context + 1) of the micro-batches of update `step`."""
        block, place = divmod(step - 1, self.steps)
        sequences = self.recipe.sequences(step)
        rows = slice(place * sequences, (place + 1) * sequences)
        at_once = micro_batch(self.recipe, self.device, self.runs, sequences)
        return list(torch.split(self._taken(block)[:, rows], at_once, dim=1))

    def _taken(self, block: int) -> Tensor:
        """The block on its device; the next one is being read from now on."""
        if self._block is not None and self._block[0] == block:
            return self._block[1]
        expected, self._next = self._next, None
        ready = expected is not None and expected[0] == block
        tokens = expected[1].result() if expected and ready else self._read(block)
        if self._thread is not None and (block + 1) * self.steps < self.recipe.steps:
            self._next = block + 1, self._thread.submit(self._read, block + 1)
        self._block = block, tokens.to(self.device, non_blocking=True)
        return self._block[1]

    def _read(self, block: int) -> Tensor:
        tokens = torch.from_numpy(np.stack([one.batch(block) for one in self._samplers]))
        return tokens.pin_memory() if self.device.type == "cuda" else tokens

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)


def micro_batch(recipe: Recipe, device: torch.device, runs: int, sequences: int) -> int:
    """How many of a run's sequences of a step go through a stack at once.

    The largest divisor with which all runs together stay within the device's
    MICRO_BATCH_TOKENS; one sequence a run where that is too much.
    """
    limit = max(
        1, placement.MICRO_BATCH_TOKENS[device.type] // (recipe.architecture.context * runs)
    )
    return next(size for size in range(min(limit, sequences), 0, -1) if sequences % size == 0)
