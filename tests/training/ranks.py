"""What test_parallel.py starts under torchrun: runs of the same recipe, one after another.

python ranks.py CORPUS FOLDER JOBS, where JOBS is JSON: a list of {"name", "sharding", ...}.
The first rank writes each run's losses to FOLDER/NAME.json.
"""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook

from mixlab.corpora.shards import TokenisedCorpus
from mixlab.mixture import Mixture
from mixlab.recipes import Recipe
from mixlab.training import TrainingProgress, placement, train
from mixlab.training.decoder import Block
from mixlab.training.parallel import World
from tests.training.conftest import small_recipe

STEPS = 12
MIXTURE = Mixture({"counting": 0.7, "noise": 0.3})


def recipe_of(job: dict[str, Any]) -> Recipe:
    """Evaluated after every update, so that every loss is seen; 8 sequences, then 11."""
    return replace(
        small_recipe(job.get("steps", STEPS)),
        evaluation_steps=tuple(range(1, STEPS + 1)),
        batch_stages=((8, 11),),
        **job.get("recipe", {}),
    )


def run(world: World, corpus: TokenisedCorpus, folder: Path, job: dict[str, Any]) -> None:
    """One run, which its first rank alone may stop after `stop_after` updates."""
    placement.MICRO_BATCH_TOKENS["cpu"] = job.get("micro_tokens", 1 << 14)
    training: list[float] = []
    told = {"terminated": False, "updates": 0}

    def progress(now: TrainingProgress) -> None:
        assert now.train_loss_nats is not None
        training.append(now.train_loss_nats)

    def stop() -> bool:
        told["updates"] += 1
        first_says = world.main and told["updates"] == job.get("stop_after")
        if job.get("waits_for_sigterm") and told["updates"] == 3 and world.main:
            (folder / "runs").write_text(str(os.getpid()))
        return first_says or told["terminated"]

    formats: set[str] = set()

    def look(module: object, _: object, stream: Tensor) -> None:
        if isinstance(module, Block):
            formats.add(str(stream.dtype))

    looking = register_module_forward_hook(look)
    signal.signal(signal.SIGTERM, lambda *_: told.update(terminated=True))
    result = train(
        recipe_of(job),
        corpus,
        MIXTURE,
        seed=1,
        threads=1,
        folder=folder / job["name"],
        progress=progress,
        stop=stop,
        checkpoint_seconds=job.get("checkpoint_seconds", 30.0),
        world=replace(world, sharding=job.get("sharding", "auto")),
    )
    looking.remove()
    if world.main:
        found = {
            "stream": sorted(formats),
            "ended": result.ended,
            "training": training,
            "validation": [list(seen.losses_nats.values()) for seen in result.observations],
        }
        (folder / f"{job['name']}.json").write_text(json.dumps(found))


def main(corpus: str, folder: str, jobs: str) -> None:
    """All jobs, in the processes that torchrun started."""
    with World.of_environment() as world:
        for job in json.loads(jobs):
            run(world, TokenisedCorpus.open(corpus), Path(folder), job)


if __name__ == "__main__":
    main(*sys.argv[1:])
