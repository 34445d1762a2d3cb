"""A killed run goes on from its exact step: the same losses and weights to the last bit."""

import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from mixlab.corpora.shards import TokenisedCorpus
from mixlab.errors import InvalidRecipe
from mixlab.mixture import Mixture
from mixlab.recipes import Recipe
from mixlab.schedules import MixtureSchedule, Stage
from mixlab.training import TrainingProgress, TrainingResult, loop, train
from mixlab.training.checkpoints import keeping
from mixlab.training.checkpoints.folders import LOCK
from tests.training.conftest import small_recipe

STEPS = 30
MILESTONES = range(1, STEPS, 2)  # of runs that are killed
MIXTURE = Mixture({"counting": 0.7, "noise": 0.3})
# Three stages, the second with a ramp, within 30 updates of 256 tokens and more.
SCHEDULE = MixtureSchedule(
    (
        Stage(MIXTURE, tokens=2000),
        Stage(Mixture({"counting": 0.2, "noise": 0.8}), tokens=4000, ramp_tokens=3000),
        Stage(Mixture({"counting": 1.0, "noise": 0.0})),
    )
)


class Killed(Exception):
    pass


def stop_at(step: int) -> Callable[[TrainingProgress], None]:
    def progress(now: TrainingProgress) -> None:
        if now.step >= step:
            raise Killed

    return progress


def plain(steps: int = STEPS) -> Recipe:
    return replace(small_recipe(steps), evaluation_steps=tuple(range(5, steps + 1, 5)))


def rich(steps: int = STEPS) -> Recipe:
    """Everything that depends on the step, and AdamW's state in bfloat16."""
    return replace(
        plain(steps),
        schedule="wsd",
        decay_steps=steps // 3,
        final_learning_rate=1e-4,
        batch_stages=((steps // 4, 11), (steps // 2, 16)),
        moments="bfloat16",
    )


CASES = {"plain": (plain, MIXTURE), "rich": (rich, SCHEDULE)}


def run(case: str, corpus: TokenisedCorpus, folder: Path, **options: object) -> TrainingResult:
    """A case in this process."""
    recipe, mixture = CASES[case]
    return train(
        recipe(),
        corpus,
        mixture,
        seed=1,
        threads=1,
        folder=folder,
        **options,
    )


def losses(result: TrainingResult) -> list[tuple[int, dict[str, float]]]:
    return [(seen.step, dict(seen.losses_nats)) for seen in result.observations]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "weights.safetensors")


@pytest.fixture(scope="module", params=CASES)
def whole(
    request: pytest.FixtureRequest,
    corpus: TokenisedCorpus,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Path, TrainingResult]:
    """A case, and its run that was never interrupted."""
    case, folder = request.param, tmp_path_factory.mktemp("whole")
    return case, folder, run(case, corpus, folder)


def assert_equal(
    folder: Path, result: TrainingResult, whole: tuple[str, Path, TrainingResult]
) -> None:
    """To the last bit."""
    _, folder_of_whole, of_whole = whole
    assert losses(result) == losses(of_whole)
    assert result.consumed == of_whole.consumed
    expected, found = weights(folder_of_whole), weights(folder)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@given(stops=st.lists(st.integers(1, STEPS - 1), min_size=1, max_size=3))
@settings(max_examples=6, deadline=None)
def test_a_run_that_is_stopped_anywhere_resumes_to_the_last_bit(
    stops: list[int],
    whole: tuple[str, Path, TrainingResult],
    corpus: TokenisedCorpus,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    case, folder = whole[0], tmp_path_factory.mktemp("stopped")
    for step in sorted(stops):
        calls = iter(range(step))
        stopped = run(case, corpus, folder, stop=lambda left=calls: next(left, None) is None)
        assert stopped.ended in ("stopped", "done")
    assert_equal(folder, run(case, corpus, folder), whole)


def test_a_run_that_fails_halfway_resumes_to_the_last_bit(
    whole: tuple[str, Path, TrainingResult], corpus: TokenisedCorpus, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        run(whole[0], corpus, tmp_path, progress=stop_at(20), milestones=[19])
    told: list[TrainingProgress] = []
    resumed = run(whole[0], corpus, tmp_path, progress=told.append)
    assert told[0].step > 19
    assert_equal(tmp_path, resumed, whole)


def test_a_finished_run_is_not_trained_again(
    whole: tuple[str, Path, TrainingResult], corpus: TokenisedCorpus
) -> None:
    case, folder, first = whole
    told: list[TrainingProgress] = []
    again = run(case, corpus, folder, progress=told.append)
    assert losses(again) == losses(first)
    assert again.seconds == first.seconds
    assert not told


def test_final_weights_are_written_while_no_save_is_in_flight(
    corpus: TokenisedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks agree on both through one group, and would take one's messages for the other's."""
    publish, save_weights, busy = keeping.publish, loop.save_weights, []
    writing = threading.Lock()

    def slowly(*arguments: Any) -> None:
        with writing:
            time.sleep(0.3)
            publish(*arguments)

    def looking(*arguments: Any) -> Path:
        busy.append(writing.locked())
        return save_weights(*arguments)

    monkeypatch.setattr(keeping, "publish", slowly)
    monkeypatch.setattr(loop, "save_weights", looking)
    train(small_recipe(5), corpus, MIXTURE, seed=0, folder=tmp_path, checkpoint_seconds=0.0)
    assert busy == [False]


def test_the_folder_of_another_run_is_refused(corpus: TokenisedCorpus, tmp_path: Path) -> None:
    train(small_recipe(2), corpus, MIXTURE, seed=1, threads=1, folder=tmp_path)
    other = Mixture.uniform(corpus.domains)
    with pytest.raises(InvalidRecipe, match="run with another mixture and seed; give each"):
        train(small_recipe(2), corpus, other, seed=2, threads=1, folder=tmp_path)


def victim(case: str, corpus: Path, folder: Path, told: Connection) -> None:
    """A process to be killed: tells each update that it has made."""

    def tell() -> bool:
        told.send_bytes(b"updated")
        return False

    # A checkpoint after each update, of which every other one is awaited, and kept.
    run(
        case,
        TokenisedCorpus.open(corpus),
        folder,
        stop=tell,
        checkpoint_seconds=0.0,
        milestones=MILESTONES,
    )


def updates_until(told: Connection, enough: int) -> int:
    """How many updates a process tells of, at most `enough`."""
    for count in range(enough):
        try:
            told.recv_bytes()
        except EOFError:
            return count
    return enough


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(
    whole: tuple[str, Path, TrainingResult], corpus: TokenisedCorpus, tmp_path: Path
) -> None:
    """Kill after kill, with a save in flight at each, whose copy, files or rename it may hit."""
    # Real processes that need not import torch each: the server that forks them has.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(
        ["tests.training.test_resume", "torch.distributed.checkpoint.hf_storage"]
    )
    case, chance, killed_at = whole[0], random.Random(whole[0]), []
    while True:
        before = newest(tmp_path)
        told, telling = processes.Pipe(duplex=False)
        process = processes.Process(target=victim, args=(case, corpus.folder, tmp_path, telling))
        process.start()
        telling.close()
        enough = chance.randint(4, 9)
        if updates_until(told, enough) < enough:
            break
        time.sleep(chance.uniform(0.0, 0.02))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        killed_at.append(newest(tmp_path))
        # Before an update is told, the milestone before it began its save, which waited for the
        # milestone before that; what lies between them is left out while a save is in flight.
        begun = [step for step in MILESTONES if step < before + enough]
        assert killed_at[-1] >= begun[-2]
    process.join()
    assert process.exitcode == 0
    assert len(killed_at) > 3
    assert_equal(tmp_path, run(case, corpus, tmp_path), whole)
    assert [left.name for left in (tmp_path / "checkpoints").glob(".*")] == [LOCK]


def newest(folder: Path) -> int:
    return max((int(entry.name[5:]) for entry in folder.glob("checkpoints/step-*")), default=0)
