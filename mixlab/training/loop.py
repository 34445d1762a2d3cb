"""The training loop: one for proxy runs and for the full-scale run.

    for step in 1 .. steps:  batch(mixture, seed, step) -> loss -> gradients -> clip -> AdamW
                             at evaluation steps: validation loss of every domain

For a seed, a machine and a number of threads, losses are equal to the last bit, and a run that
was killed goes on from its checkpoint to the same losses.
Limits: one process and one device; resuming on another device changes the last bits.
"""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from mixlab.corpora.sampling import Sampler
from mixlab.errors import Diverged, InvalidRecipe
from mixlab.mixture import Mixture
from mixlab.recipes import Recipe
from mixlab.runs import Observation
from mixlab.training.checkpoints import Checkpoints
from mixlab.training.decoder import Decoder
from mixlab.training.evaluation import Validation
from mixlab.training.head import loss_sum
from mixlab.training.optimiser import adamw, learning_rate
from mixlab.training.parallel import World
from mixlab.training.placement import (
    autocast,
    chosen_device,
    compiled_or_eager,
    deterministic,
    micro_batch,
    peak_memory_bytes,
)
from mixlab.training.records import TokenCorpus, TrainingProgress, TrainingResult
from mixlab.training.weights import WEIGHTS, save_weights

Progress = Callable[[TrainingProgress], None]

LOOK_EVERY_STEPS = 10  # reading a loss waits for the device
PROGRESS_SECONDS = 0.5
# A model that knows nothing has ln(vocabulary); one nat worse is no training any more.
DIVERGENCE_MARGIN_NATS = 1.0


def train(
    recipe: Recipe,
    corpus: TokenCorpus,
    mixture: Mixture,
    *,
    seed: int,
    folder: Path | None = None,
    progress: Progress | None = None,
    threads: int | None = None,
    checkpoint_seconds: float = 30.0,
    clock: Callable[[], float] = time.monotonic,
) -> TrainingResult:
    """Train the recipe on the mixture and measure every domain's validation loss.

    With a folder, a checkpoint is kept there at least every `checkpoint_seconds` and at the
    end, a run that was killed goes on from it, and the final weights are saved. `threads` is
    the number of CPU threads, which changes results in their last bits.

    Raises Diverged with the step and the loss, InvalidRecipe for a vocabulary that is too
    small or a folder of another run, InvalidMixture for domains that the corpus lacks, and
    DomainTooSmall for a domain with less than one sequence.
    """
    device = chosen_device()
    with deterministic(device, threads):
        run = _Run(recipe, corpus, mixture, seed, folder, device, clock)
        with run.checkpoints or nullcontext():
            return run.to_its_end(progress, checkpoint_seconds)


class _Run:
    """A run between its first and last update."""

    def __init__(
        self,
        recipe: Recipe,
        corpus: TokenCorpus,
        mixture: Mixture,
        seed: int,
        folder: Path | None,
        device: torch.device,
        clock: Callable[[], float],
    ) -> None:
        _check_vocabulary(recipe, corpus)
        self.recipe, self.mixture, self.folder = recipe, mixture, folder
        self.device, self.clock = device, clock
        self.sequences = micro_batch(recipe, device)
        self.sampler, self.validation = _data(recipe, corpus, mixture, seed)
        self.identity = {
            "recipe": recipe.to_dict(),
            "mixture": dict(mixture.proportions),
            "seed": seed,
            "corpus": corpus.fingerprint,
        }
        self.world = World.alone(device)
        self.checkpoints = (
            None if folder is None else Checkpoints(folder, self.identity, self.world)
        )
        self.model = Decoder(recipe.architecture)
        self.model.initialise(seed)
        self.model.to(device)
        self.optimiser = adamw(self.model, recipe)
        self.features: Callable[[torch.Tensor], torch.Tensor] = self.model.features
        self.execution = "eager"
        self.step = 0
        self.observations: list[Observation] = []
        self.seconds = self.update_seconds = 0.0
        self.recent: list[torch.Tensor] = []  # losses not looked at yet
        self.train_loss_nats: float | None = None

    def to_its_end(self, progress: Progress | None, checkpoint_seconds: float) -> TrainingResult:
        """Resume where a checkpoint is, do the remaining updates, and sum up."""
        self._resume()
        began = self.clock()
        done_before, seconds_before = self.step, self.seconds
        reported = saved = began
        if self.step < self.recipe.steps:
            self._compile()
        while self.step < self.recipe.steps:
            self._update()
            found = self._evaluate() if self.step in self.recipe.evaluation_steps else None
            now = self.clock()
            self.seconds = seconds_before + now - began
            if progress and (found or now - reported >= PROGRESS_SECONDS):
                pace = (now - began) / (self.step - done_before)
                progress(self._progress(pace, found))
                reported = now
            if now - saved >= checkpoint_seconds or self.step == self.recipe.steps:
                self._save()
                saved = self.clock()
        return self._result()

    def _compile(self) -> None:
        if self.recipe.compiled:
            shape = (self.sequences, self.recipe.architecture.context)
            example = torch.zeros(shape, dtype=torch.int64, device=self.device)
            with autocast(self.device):
                self.features, self.execution = compiled_or_eager(
                    self.model.features, example, self.device
                )
            self.optimiser.zero_grad()

    def _update(self) -> None:
        """One weight update."""
        began = self.clock()
        tokens = torch.from_numpy(self.sampler.batch(self.step)).to(self.device)
        self.step += 1
        total = torch.zeros((), device=self.device)
        for some in tokens.split(self.sequences):  # type: ignore[no-untyped-call]
            with autocast(self.device):
                # Contiguous like the example that it was compiled for.
                found = self.features(some[:, :-1].contiguous()).flatten(0, 1)
                loss = loss_sum(found, self.model.head.weight, some[:, 1:].flatten())
            loss = loss / self.recipe.tokens_per_step
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.gradient_clip)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.recipe, self.step) * group["scale"]
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.recent.append(total)
        if self.step % LOOK_EVERY_STEPS == 0 or self.step in self.recipe.evaluation_steps:
            self._look()
        self.update_seconds += self.clock() - began

    def _look(self) -> None:
        """Read the latest losses. Raises Diverged where they are none."""
        losses = torch.stack(self.recent).tolist()
        self.recent.clear()
        self.train_loss_nats = sum(losses) / len(losses)
        limit = math.log(self.recipe.architecture.vocabulary) + DIVERGENCE_MARGIN_NATS
        warm = self.step > self.recipe.warmup_steps
        if not math.isfinite(self.train_loss_nats) or (warm and self.train_loss_nats > limit):
            raise self._diverged("training loss", self.train_loss_nats)

    def _evaluate(self) -> Observation:
        with autocast(self.device):
            # Eager: compiling once more for evaluations costs more than it saves.
            losses = self.validation.losses(
                self.model.features, self.model.head.weight, sequences=self.sequences
            )
        for name, loss in losses.items():
            if not math.isfinite(loss):
                raise self._diverged(f"validation loss of {name!r}", loss)
        self.observations.append(self._observation(self.step, losses))
        return self.observations[-1]

    def _diverged(self, what: str, loss: float) -> Diverged:
        known = math.log(self.recipe.architecture.vocabulary)
        return Diverged(
            f"{self.recipe.name} diverged: the {what} is {loss:.4g} nats at step {self.step} of "
            f"{self.recipe.steps}, where knowing nothing has {known:.2f}; lower the learning "
            f"rate (it is {self.recipe.learning_rate:g}) or lengthen the warm-up."
        )

    def _observation(self, step: int, losses_nats: dict[str, float]) -> Observation:
        return Observation(
            run="",
            mixture=self.mixture,
            step=step,
            tokens=step * self.recipe.tokens_per_step,
            losses_nats=losses_nats,
            params=self.recipe.architecture.parameters,
        )

    def _progress(self, seconds_per_step: float, found: Observation | None) -> TrainingProgress:
        return TrainingProgress(
            step=self.step,
            steps=self.recipe.steps,
            train_loss_nats=self.train_loss_nats,
            tokens_per_second=self._tokens_per_second(),
            eta_seconds=seconds_per_step * (self.recipe.steps - self.step),
            observation=found,
        )

    def _tokens_per_second(self) -> float:
        return self.step * self.recipe.tokens_per_step / max(self.update_seconds, 1e-9)

    def _resume(self) -> None:
        """Go on from the folder's checkpoint, where there is one."""
        if self.checkpoints is None:
            return
        record = self.checkpoints.resume(self.model, self.optimiser)
        if record is None:
            return
        self.step = record["step"]
        self.seconds, self.update_seconds = record["seconds"], record["update_seconds"]
        self.observations = [
            self._observation(entry["step"], entry["losses_nats"])
            for entry in record["observations"]
        ]

    def _save(self) -> None:
        """Write the checkpoint, and after the last update the weights."""
        if self.folder is None or self.checkpoints is None:
            return
        record: dict[str, Any] = {
            "identity": self.identity,
            "step": self.step,
            "seconds": self.seconds,
            "update_seconds": self.update_seconds,
            "observations": [
                {"step": seen.step, "losses_nats": dict(seen.losses_nats)}
                for seen in self.observations
            ],
        }
        done = self.step == self.recipe.steps
        if done:
            save_weights(self.folder, self.model, record, self.world)
        self.checkpoints.save(self.step, self.model, self.optimiser, record, wait=done)

    def _result(self) -> TrainingResult:
        ends = sorted({0, *self.recipe.evaluation_steps, self.recipe.steps})
        consumed = tuple(
            {"from_step": a, "to_step": b, "tokens": self.sampler.consumed(a, b)}
            for a, b in pairwise(ends)
        )
        return TrainingResult(
            observations=tuple(self.observations),
            consumed=consumed,
            evaluation_tokens=self.validation.tokens,
            seconds=self.seconds,
            tokens_per_second=self._tokens_per_second(),
            peak_memory_bytes=peak_memory_bytes(self.device),
            execution=f"{self.device.type}, {self.execution}",
            weights=None if self.folder is None else self.folder / WEIGHTS,
        )


def _data(
    recipe: Recipe, corpus: TokenCorpus, mixture: Mixture, seed: int
) -> tuple[Sampler, Validation]:
    """Training batches, and the validation windows of all the corpus's domains."""
    context = recipe.architecture.context
    sampler = Sampler(
        {name: corpus.stream(name, "train") for name in corpus.domains},
        mixture,
        context=context,
        batch_sequences=recipe.batch_sequences,
        seed=seed,
    )
    validation = Validation(
        {name: corpus.stream(name, "validation") for name in corpus.domains},
        context=context,
        tokens_per_domain=recipe.evaluation_tokens,
    )
    return sampler, validation


def _check_vocabulary(recipe: Recipe, corpus: TokenCorpus) -> None:
    size = recipe.architecture.vocabulary
    if corpus.vocabulary > size:
        raise InvalidRecipe(
            f"{recipe.name} has a vocabulary of {size}, but the corpus uses {corpus.vocabulary} "
            "tokens; use Recipe.for_vocabulary()."
        )
