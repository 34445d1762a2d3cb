"""The loss of every sequence that a run has read, by the model that it ended with.

The model is frozen, its arithmetic that of an evaluation. A part of the steps is scored at a
time, so that several jobs may share the work and a stop loses one part at most.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mixlab.corpora.sampling import Sampler
from mixlab.mixture import Mixture
from mixlab.recipes import Recipe
from mixlab.rounds.scores import Scores, part_file, steps_of, write_scores
from mixlab.schedules import MixtureSchedule
from mixlab.training.allocation import hold_memory
from mixlab.training.data import check_vocabulary, sampler_of
from mixlab.training.decoder import Decoder
from mixlab.training.objective import NextTokenLoss
from mixlab.training.parallel import World
from mixlab.training.placement import autocast, deterministic, micro_batch
from mixlab.training.records import TokenCorpus
from mixlab.training.state import identity_of
from mixlab.training.weights import load_weights

Progress = Callable[[int, int], None]  # steps scored, steps in all


def score(
    recipe: Recipe,
    corpus: TokenCorpus,
    mixture: Mixture | MixtureSchedule,
    *,
    seed: int,
    weights: Path,
    folder: Path,
    part: int = 0,
    parts: int = 1,
    threads: int | None = None,
    world: World | None = None,
    stop: Callable[[], bool] | None = None,
    progress: Progress | None = None,
) -> bool:
    """Score a part of the steps of a run, from its own recipe, mixture and seed.

    Whether the part is done: False where `stop()` said so, asked once a step; it then begins anew.
    A part that is there stays as it is. Raises what training raises of recipe and corpus, and
    TruncatedFile for weights that can't be read.
    """
    file = part_file(folder, part, parts)
    if file.is_file():
        return True
    world, stop = world or World.alone(), stop or (lambda: False)
    schedule = MixtureSchedule.of(mixture)
    check_vocabulary(recipe, corpus)
    sampler = sampler_of(recipe, corpus, schedule, seed=seed, max_epochs=None)
    steps = steps_of(part, parts, recipe.steps)
    found = [Scores.none(sampler.domains)]  # a short run has fewer steps than parts
    with deterministic(world.device, threads), hold_memory():
        model = _frozen(recipe, weights, world)
        for done, step in enumerate(steps):
            if stop():
                return False
            found.append(_scored(model, recipe, sampler, step, world))
            if progress is not None:
                progress(done + 1, len(steps))
    write_scores(file, Scores.joined(found), scored_run(recipe, schedule, seed, corpus))
    return True


def scored_run(
    recipe: Recipe, schedule: MixtureSchedule, seed: int, corpus: TokenCorpus
) -> dict[str, object]:
    """What tells the scores of one run from another's; JSON-ready."""
    return identity_of(recipe, schedule, seed=seed, corpus=corpus.fingerprint)


def _frozen(recipe: Recipe, weights: Path, world: World) -> NextTokenLoss:
    model = NextTokenLoss(Decoder(recipe.architecture))
    load_weights(weights, model)
    return model.to(world.device).requires_grad_(False)


def _scored(
    model: NextTokenLoss, recipe: Recipe, sampler: Sampler, step: int, world: World
) -> Scores:
    """The sequences of one step, counted from 1."""
    domain, _, window = sampler.slots(step - 1)
    tokens = torch.from_numpy(sampler.batch(step - 1))
    at_once = micro_batch(recipe, world.device, sequences=len(tokens))
    losses = []
    for rows in torch.split(tokens, at_once):
        with autocast(world.device, recipe.precision):
            each = model(rows.to(world.device), each=True)
        losses.append(each.double().mean(dim=1).cpu().numpy())
    return Scores(
        sampler.domains,
        step=np.full(len(tokens), step),
        domain=domain,
        window=window,
        loss_nats=np.concatenate(losses),
    )
