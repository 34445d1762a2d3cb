"""A killed run goes on from its exact step to the same losses; a damaged file says so."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mixlab.corpora.shards import TokenisedCorpus
from mixlab.errors import InvalidRecipe
from mixlab.mixture import Mixture
from mixlab.training import TrainingProgress, TrainingResult, train
from tests.training.conftest import small_recipe


class Killed(Exception):
    pass


def stop_at(step: int) -> "object":
    def progress(now: TrainingProgress) -> None:
        if now.step >= step:
            raise Killed

    return progress


def losses(result: TrainingResult) -> list[tuple[int, dict[str, float]]]:
    return [(seen.step, dict(seen.losses_nats)) for seen in result.observations]


def every_step(
    corpus: TokenisedCorpus, mixture: Mixture, folder: Path, **options: object
) -> object:
    """Checkpoint after every update."""
    return train(
        small_recipe(), corpus, mixture, seed=1, threads=1, folder=folder,
        checkpoint_seconds=0.0, **options,
    )  # fmt: skip


def test_a_stopped_run_resumes_to_the_same_losses_bit_by_bit(
    corpus: TokenisedCorpus, mixture: Mixture, tmp_path: Path
) -> None:
    whole = train(small_recipe(), corpus, mixture, seed=1, threads=1)
    with pytest.raises(Killed):
        every_step(corpus, mixture, tmp_path, progress=stop_at(20))
    told: list[TrainingProgress] = []
    resumed = every_step(corpus, mixture, tmp_path, progress=told.append)
    assert told[0].step > 19
    assert losses(resumed) == losses(whole)
    assert resumed.consumed == whole.consumed


def test_a_finished_run_is_not_trained_again(
    corpus: TokenisedCorpus, mixture: Mixture, tmp_path: Path
) -> None:
    first = every_step(corpus, mixture, tmp_path)
    told: list[TrainingProgress] = []
    again = every_step(corpus, mixture, tmp_path, progress=told.append)
    assert losses(again) == losses(first)
    assert again.seconds == first.seconds
    assert not told


def test_the_folder_of_another_run_is_refused(
    corpus: TokenisedCorpus, mixture: Mixture, tmp_path: Path
) -> None:
    train(small_recipe(), corpus, mixture, seed=1, threads=1, folder=tmp_path)
    with pytest.raises(InvalidRecipe, match="run with another mixture and seed; give each"):
        train(
            small_recipe(),
            corpus,
            Mixture.uniform(corpus.domains),
            seed=2,
            threads=1,
            folder=tmp_path,
        )


VICTIM = """
import sys, time
from pathlib import Path
from mixlab.corpora.shards import TokenisedCorpus
from mixlab.mixture import Mixture
from mixlab.training import train
from tests.training.conftest import small_recipe

ticks = iter(range(10**9))
def slow_clock():  # every look at the clock takes a moment, so that the kill comes in between
    time.sleep(0.004)
    return next(ticks)

train(
    small_recipe(200), TokenisedCorpus.open(sys.argv[1]), Mixture({"counting": 0.7, "noise": 0.3}),
    seed=1, threads=1, folder=Path(sys.argv[2]), checkpoint_seconds=7, clock=slow_clock,
)
"""


@pytest.mark.slow
def test_kill_9_in_the_middle_changes_nothing(
    corpus: TokenisedCorpus, mixture: Mixture, tmp_path: Path
) -> None:
    recipe = small_recipe(200)
    victim = subprocess.Popen([sys.executable, "-c", VICTIM, str(corpus.folder), str(tmp_path)])
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert victim.poll() is None, "it was to be killed before its end"
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    assert not (tmp_path / "weights.safetensors").exists()
    told: list[TrainingProgress] = []
    resumed = train(
        recipe, corpus, mixture, seed=1, threads=1, folder=tmp_path, progress=told.append
    )
    assert told[0].step > 1
    assert losses(resumed) == losses(train(recipe, corpus, mixture, seed=1, threads=1))
