"""Stacked runs: each one is as it is alone, whatever becomes of the others."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mixlab.corpora.shards import TokenisedCorpus
from mixlab.errors import Diverged, InvalidMixture, InvalidRecipe
from mixlab.mixture import Mixture
from mixlab.recipes import Recipe
from mixlab.schedules import MixtureSchedule, Stage
from mixlab.training import TrainingResult, placement, train
from mixlab.training.decoder import Decoder
from mixlab.training.stacked import GroupProgress, Outcome, StackedRun, train_stacked
from mixlab.training.stacked.batches import StackedBatches
from mixlab.training.stacked.engine import StackedEngine
from mixlab.training.weights import load_weights
from tests.training.conftest import small_recipe

RUNS = (
    StackedRun(Mixture({"counting": 0.7, "noise": 0.3}), seed=1),
    StackedRun(Mixture({"counting": 0.2, "noise": 0.8}), seed=1, learning_rate=3e-3),
    StackedRun(Mixture({"counting": 0.5, "noise": 0.5}), seed=7, learning_rate=5e-3),
)
UNTIED = replace(small_recipe().architecture, tied_head=False)
DIVERGING = 1e18


def in_folders(runs: tuple[StackedRun, ...], parent: Path) -> list[StackedRun]:
    return [replace(run, folder=parent / str(number)) for number, run in enumerate(runs)]


def of_run(recipe: Recipe, run: StackedRun) -> Recipe:
    return replace(recipe, learning_rate=run.learning_rate or recipe.learning_rate)


def train_solo(recipe: Recipe, corpus: TokenisedCorpus, run: StackedRun) -> TrainingResult:
    return train(of_run(recipe, run), corpus, run.mixture, seed=run.seed, threads=1)


@pytest.fixture(scope="module")
def whole(corpus: TokenisedCorpus) -> list[Outcome]:
    """What becomes of RUNS in one stack."""
    return train_stacked(small_recipe(), corpus, RUNS, threads=1)


@pytest.fixture(scope="module")
def solos(corpus: TokenisedCorpus) -> list[TrainingResult]:
    """What becomes of each of RUNS alone."""
    return [train_solo(small_recipe(), corpus, run) for run in RUNS]


def losses(outcome: Outcome) -> list[tuple[int, dict[str, float]]]:
    assert isinstance(outcome, TrainingResult), outcome
    return [(seen.step, dict(seen.losses_nats)) for seen in outcome.observations]


def assert_near(found: Outcome, expected: TrainingResult, nats: float = 1e-4) -> None:
    for (step, mine), (of, alone) in zip(losses(found), losses(expected), strict=True):
        assert step == of
        assert mine == pytest.approx(alone, abs=nats)


KINDS = {
    "constant, grouped, tied": small_recipe(),
    "cosine, untied": replace(
        small_recipe(), schedule="cosine", final_learning_rate=1e-3, architecture=UNTIED
    ),
    "wsd, maximal update": replace(
        small_recipe(), schedule="wsd", decay_steps=10, architecture=UNTIED, base_width=8
    ),
    "growing batches": replace(small_recipe(), batch_stages=((11, 12), (31, 20))),
    "recomputed": replace(small_recipe(), activation_checkpointing=True),
}


FAST = ("constant, grouped, tied", "cosine, untied")


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(one, id=name, marks=[] if name in FAST else pytest.mark.slow)
        for name, one in KINDS.items()
    ],
)
def test_each_run_has_the_losses_of_its_solo_run(
    recipe: Recipe, corpus: TokenisedCorpus, tmp_path: Path
) -> None:
    """Validation losses of the whole run, and what it consumed, for unlike runs."""
    found = train_stacked(recipe, corpus, RUNS, threads=1)
    for run, outcome in zip(RUNS, found, strict=True):
        alone = train_solo(recipe, corpus, run)
        assert_near(outcome, alone)
        assert isinstance(outcome, TrainingResult)
        assert outcome.consumed == alone.consumed
        assert outcome.evaluation_tokens == alone.evaluation_tokens
        assert [seen.mixture for seen in outcome.observations] == [
            seen.mixture for seen in alone.observations
        ]
        assert [seen.tokens for seen in outcome.observations] == [
            seen.tokens for seen in alone.observations
        ]
        assert (outcome.ended, outcome.step) == (alone.ended, alone.step)


def test_training_losses_of_every_update_are_those_of_solo_runs(corpus: TokenisedCorpus) -> None:
    recipe, device = small_recipe(), torch.device("cpu")
    streams = {name: corpus.stream(name, "train") for name in corpus.domains}
    stack = StackedEngine(recipe, streams, [(run.mixture, run.seed) for run in RUNS], device)
    ones = [StackedEngine(recipe, streams, [(run.mixture, run.seed)], device) for run in RUNS]
    everyone = torch.ones(3, dtype=torch.bool)
    for step in range(1, 31):
        together, norms = stack.gradients(step)
        stack.apply([1e-2] * 3, norms, everyone)
        for place, one in enumerate(ones):
            loss, norm = one.gradients(step)
            one.apply([1e-2], norm, everyone[:1])
            assert together[place].item() == pytest.approx(loss.item(), abs=1e-4)
            assert norms[place].item() == pytest.approx(norm.item(), rel=1e-3)


def test_schedules_of_mixtures_are_followed(corpus: TokenisedCorpus) -> None:
    counting, noise = Mixture({"counting": 1.0}), Mixture({"noise": 1.0})
    schedule = MixtureSchedule((Stage(noise, tokens=5120), Stage(counting, ramp_tokens=2560)))
    runs = [StackedRun(schedule, seed=2), StackedRun(counting, seed=2)]
    found = train_stacked(small_recipe(), corpus, runs, threads=1)
    alone = train(small_recipe(), corpus, schedule, seed=2, threads=1)
    assert_near(found[0], alone)


def test_small_micro_batches_give_the_same_runs(
    corpus: TokenisedCorpus, whole: list[Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(placement.MICRO_BATCH_TOKENS, "cpu", 2 * 3 * 32)
    split = train_stacked(small_recipe(), corpus, RUNS, threads=1)
    for one, other in zip(whole, split, strict=True):
        assert_near(one, other, nats=2e-3)


def test_blocks_of_several_steps_read_ahead_or_not_hold_the_samplers_batches(
    corpus: TokenisedCorpus,
) -> None:
    streams = {name: corpus.stream(name, "train") for name in corpus.domains}
    runs = [(run.mixture, run.seed) for run in RUNS]
    for recipe in (small_recipe(), replace(small_recipe(), batch_stages=((3, 5),))):
        for ahead in (False, True):
            with StackedBatches(recipe, streams, runs, torch.device("cpu"), ahead=ahead) as found:
                for step in (1, 2, 3, 16, 17, 40, 5):  # also after a resume, and going back
                    tokens = torch.cat(found.of(step), dim=1)
                    assert tokens.shape == (3, recipe.sequences(step), 33)
                    for place, (mixture, seed) in enumerate(runs):
                        expected = sampler(recipe, streams, mixture, seed).batch(step - 1)
                        assert tokens[place].tolist() == expected.tolist()


def sampler(recipe: Recipe, streams: object, mixture: Mixture, seed: int) -> object:
    from mixlab.corpora.sampling import Sampler

    return Sampler(
        streams, mixture, context=32, batch_sequences=recipe.batch_sequences,
        batch_stages=recipe.batch_stages, seed=seed,
    )  # fmt: skip


def test_progress_rises_and_carries_every_observation(corpus: TokenisedCorpus) -> None:
    told: list[GroupProgress] = []
    found = train_stacked(small_recipe(), corpus, RUNS, threads=1, progress=told.append)
    assert [now.fraction for now in told] == sorted(now.fraction for now in told)
    assert told[-1].fraction == 1
    for number, outcome in enumerate(found):
        assert isinstance(outcome, TrainingResult)
        seen = tuple(now.observation for now in told if now.run == number)
        assert seen == outcome.observations
        assert outcome.execution == "cpu, eager, 3 runs stacked"


def test_a_run_that_diverges_is_told_with_its_step_and_others_are_equal_to_the_last_bit(
    corpus: TokenisedCorpus, whole: list[Outcome]
) -> None:
    """A rate that makes weights infinite; its neighbours don't notice."""
    broken = (RUNS[0], replace(RUNS[1], learning_rate=DIVERGING), RUNS[2])
    found = train_stacked(small_recipe(), corpus, broken, threads=1)
    assert isinstance(found[1], Diverged)
    with pytest.raises(Diverged) as alone:
        train_solo(small_recipe(), corpus, broken[1])
    assert str(found[1]) == str(alone.value)
    assert "at step" in str(found[1])
    for place in (0, 2):
        assert losses(found[place]) == losses(whole[place])


def test_a_run_worse_than_knowing_nothing_diverges_as_it_does_alone(
    corpus: TokenisedCorpus,
) -> None:
    """Finite losses, but by the loop's rule no training any more."""
    runs = (RUNS[0], replace(RUNS[1], learning_rate=30.0))
    found = train_stacked(small_recipe(), corpus, runs, threads=1)
    assert isinstance(found[0], TrainingResult)
    assert isinstance(found[1], Diverged)
    with pytest.raises(Diverged) as alone:
        train_solo(small_recipe(), corpus, runs[1])
    steps = [str(problem).split(" at step ")[1].split()[0] for problem in (found[1], alone.value)]
    assert steps[0] == steps[1]


def test_where_all_diverge_the_stack_ends_early(corpus: TokenisedCorpus) -> None:
    told: list[GroupProgress] = []
    runs = [replace(run, learning_rate=DIVERGING) for run in RUNS]
    found = train_stacked(small_recipe(5000), corpus, runs, threads=1, progress=told.append)
    assert all(isinstance(one, Diverged) for one in found)


def interrupted(noisy_steps: int) -> MixtureSchedule:
    """Counting up, but for some steps of noise from step 26 on."""
    counting, noise = Mixture({"counting": 1.0}), Mixture({"noise": 1.0})
    stages = Stage(counting, tokens=25 * 256), Stage(noise, tokens=noisy_steps * 256)
    return MixtureSchedule((*stages, Stage(counting)))


def test_skipped_updates_are_those_of_the_solo_run(corpus: TokenisedCorpus) -> None:
    """Noise is a spike to a run that has learned to count; ten in a row end it."""
    recipe = replace(small_recipe(), on_anomaly="skip", spike_nats=0.5)
    runs = (RUNS[0], StackedRun(interrupted(4), seed=1), StackedRun(interrupted(12), seed=1))
    found = train_stacked(recipe, corpus, runs, threads=1)
    assert isinstance(found[0], TrainingResult)
    assert isinstance(found[1], TrainingResult)
    alone = train_solo(recipe, corpus, runs[1])
    assert [one["step"] for one in alone.skipped] == [26, 27, 28, 29]
    assert [one["step"] for one in found[1].skipped] == [26, 27, 28, 29]
    assert not found[0].skipped
    assert found[1].consumed == alone.consumed
    assert_near(found[1], alone)
    with pytest.raises(Diverged, match=r"at step 35, .* the 10th update skipped in a row"):
        train_solo(recipe, corpus, runs[2])
    assert isinstance(found[2], Diverged)
    assert "at step 35, " in str(found[2])
    assert "the 10th update skipped in a row" in str(found[2])


@pytest.mark.parametrize(
    ("recipe", "runs", "error", "what"),
    [
        (small_recipe(), (), InvalidRecipe, "at least one run"),
        (replace(small_recipe(), on_anomaly="roll_back"), RUNS, InvalidRecipe, "one by one"),
        (small_recipe(), (*RUNS[:2], replace(RUNS[2], folder=Path("x"))), InvalidRecipe, "folder"),
        (small_recipe(), [replace(run, folder=Path("x")) for run in RUNS], InvalidRecipe, "own"),
        (small_recipe(), (StackedRun(Mixture({"law": 1.0}), seed=0),), InvalidMixture, "law"),
    ],
)
def test_what_can_not_be_stacked_is_refused_before_anything_runs(
    recipe: Recipe, runs: tuple[StackedRun, ...], error: type[Exception], what: str,
    corpus: TokenisedCorpus,
) -> None:  # fmt: skip
    with pytest.raises(error, match=what):
        train_stacked(recipe, corpus, runs, threads=1)


def test_weights_in_the_runs_folders_are_the_trained_ones(
    corpus: TokenisedCorpus, tmp_path: Path
) -> None:
    recipe = small_recipe(8)
    found = train_stacked(recipe, corpus, in_folders(RUNS, tmp_path), threads=1)
    for run, outcome in zip(RUNS, found, strict=True):
        folder = tmp_path / str(RUNS.index(run))
        assert isinstance(outcome, TrainingResult)
        assert outcome.weights == folder / "weights.safetensors"
        solo = tmp_path / f"solo-{run.seed}-{run.learning_rate}"
        train(of_run(recipe, run), corpus, run.mixture, seed=run.seed, threads=1, folder=solo)
        mine, alone = Decoder(recipe.architecture), Decoder(recipe.architecture)
        load_weights(outcome.weights, mine)
        load_weights(solo / "weights.safetensors", alone)
        for one, other in zip(mine.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def stopping_at(fraction: float) -> tuple[object, object]:
    told: list[float] = []
    return lambda now: told.append(now.fraction), lambda: bool(told) and told[-1] >= fraction


def half_done(recipe: Recipe, corpus: TokenisedCorpus, runs: list[StackedRun]) -> list[Outcome]:
    progress, stop = stopping_at(0.5)
    return train_stacked(recipe, corpus, runs, threads=1, progress=progress, stop=stop)


def test_a_stopped_stack_goes_on_to_the_same_bits(
    corpus: TokenisedCorpus, whole: list[Outcome], tmp_path: Path
) -> None:
    recipe = small_recipe()
    runs = in_folders(RUNS, tmp_path)
    stopped = half_done(recipe, corpus, runs)
    assert [(one.ended, one.step) for one in stopped] == [("stopped", 20)] * 3
    told: list[GroupProgress] = []
    found = train_stacked(recipe, corpus, runs, threads=1, progress=told.append)
    assert [losses(one) for one in found] == [losses(one) for one in whole]
    assert all(now.fraction > 0.5 for now in told)
    again = train_stacked(recipe, corpus, runs, threads=1)
    assert [losses(one) for one in again] == [losses(one) for one in whole]


def test_a_run_goes_on_alone_from_where_its_stack_left_it(
    corpus: TokenisedCorpus, solos: list[TrainingResult], tmp_path: Path
) -> None:
    runs = in_folders(RUNS, tmp_path)
    half_done(small_recipe(), corpus, runs)
    steps: list[int] = []
    run = runs[1]
    alone = train(
        of_run(small_recipe(), run), corpus, run.mixture, seed=run.seed, threads=1,
        folder=run.folder, progress=lambda now: steps.append(now.step),
    )  # fmt: skip
    assert steps[0] > 20
    assert_near(alone, solos[1])


def test_a_stack_goes_on_from_where_its_runs_came_alone(
    corpus: TokenisedCorpus, solos: list[TrainingResult], tmp_path: Path
) -> None:
    runs = in_folders(RUNS, tmp_path)
    for run in runs:
        train(
            of_run(small_recipe(), run), corpus, run.mixture, seed=run.seed, threads=1,
            folder=run.folder, stop=stopping_at_step(20),
        )  # fmt: skip
    told: list[GroupProgress] = []
    found = train_stacked(small_recipe(), corpus, runs, threads=1, progress=told.append)
    assert told[0].fraction > 0.5
    for outcome, alone in zip(found, solos, strict=True):
        assert_near(outcome, alone)


def stopping_at_step(step: int) -> object:
    calls = iter(range(1, 10**6))
    return lambda: next(calls) >= step


@pytest.mark.slow
def test_runs_at_unlike_steps_go_on_from_the_newest_one_that_all_have(
    corpus: TokenisedCorpus, whole: list[Outcome], tmp_path: Path
) -> None:
    """As after a kill between two runs' checkpoints."""
    recipe = small_recipe()
    runs = in_folders(RUNS, tmp_path)
    half_done(recipe, corpus, runs)
    train(
        recipe, corpus, RUNS[0].mixture, seed=1, threads=1, folder=runs[0].folder,
        stop=stopping_at_step(7),
    )  # fmt: skip
    assert sorted(os.listdir(tmp_path / "0" / "checkpoints")) == [
        ".lock",
        "step-000000020",
        "step-000000027",
    ]
    found = train_stacked(recipe, corpus, runs, threads=1)
    assert [losses(one) for one in found] == [losses(one) for one in whole]


def test_a_diverged_run_stays_behind_when_its_stack_goes_on(
    corpus: TokenisedCorpus, tmp_path: Path
) -> None:
    recipe = small_recipe()
    broken = (RUNS[0], replace(RUNS[1], learning_rate=DIVERGING), RUNS[2])
    whole = train_stacked(recipe, corpus, broken, threads=1)
    runs = in_folders(broken, tmp_path)
    half_done(recipe, corpus, runs)
    found = train_stacked(recipe, corpus, runs, threads=1)
    assert str(found[1]) == str(whole[1])
    for place in (0, 2):
        assert losses(found[place]) == losses(whole[place])
    assert json.loads((tmp_path / "1" / "diverged.json").read_text())["detail"] == str(found[1])


def test_the_folders_of_other_runs_are_refused(corpus: TokenisedCorpus, tmp_path: Path) -> None:
    recipe = small_recipe(4)
    train_stacked(recipe, corpus, in_folders(RUNS, tmp_path), threads=1)
    swapped = in_folders((RUNS[1], RUNS[0], RUNS[2]), tmp_path)
    with pytest.raises(InvalidRecipe, match="of a run with another"):
        train_stacked(recipe, corpus, swapped, threads=1)


def test_another_runs_folder_beside_a_fresh_one_is_refused_and_kept(
    corpus: TokenisedCorpus, tmp_path: Path
) -> None:
    recipe = small_recipe(4)
    foreign = replace(RUNS[2], folder=tmp_path / "1")
    train(
        of_run(recipe, foreign), corpus, foreign.mixture, seed=foreign.seed, threads=1,
        folder=foreign.folder,
    )  # fmt: skip
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.safetensors")}
    with pytest.raises(InvalidRecipe, match="of a run with another"):
        train_stacked(recipe, corpus, in_folders(RUNS[:2], tmp_path), threads=1)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*.safetensors")} == before
    assert not (tmp_path / "0" / "checkpoints").exists()


def test_a_stack_with_a_fresh_run_starts_over_and_leaves_no_later_checkpoints(
    corpus: TokenisedCorpus, whole: list[Outcome], tmp_path: Path
) -> None:
    """As after a kill in the first save: later steps that one run has alone are of no use."""
    recipe, runs = small_recipe(), in_folders(RUNS, tmp_path)
    train(
        recipe, corpus, RUNS[0].mixture, seed=1, threads=1, folder=runs[0].folder,
        stop=stopping_at_step(30),
    )  # fmt: skip
    half_done(recipe, corpus, runs)
    for run in runs:
        assert run.folder is not None
        kept = (run.folder / "checkpoints").glob("step-*")
        assert [one.name for one in kept] == ["step-000000020"]
    found = train_stacked(recipe, corpus, runs, threads=1)
    assert [losses(one) for one in found] == [losses(one) for one in whole]


VICTIM = """
import sys
from pathlib import Path
from mixlab.corpora.shards import TokenisedCorpus
from mixlab.training.stacked import train_stacked
from tests.training.conftest import small_recipe
from tests.training.test_stacked import RUNS, in_folders

train_stacked(
    small_recipe(150), TokenisedCorpus.open(sys.argv[1]), in_folders(RUNS, Path(sys.argv[2])),
    threads=1, checkpoint_seconds=0.0,
)
"""


@pytest.mark.slow
def test_kill_9_in_the_middle_changes_nothing(corpus: TokenisedCorpus, tmp_path: Path) -> None:
    recipe, runs = small_recipe(150), in_folders(RUNS, tmp_path)
    victim = subprocess.Popen([sys.executable, "-c", VICTIM, str(corpus.folder), str(tmp_path)])
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("2/checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.1)
    assert victim.poll() is None, "it was to be killed before its end"
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    told: list[GroupProgress] = []
    found = train_stacked(recipe, corpus, runs, threads=1, progress=told.append)
    assert told[0].fraction > 0
    whole = train_stacked(recipe, corpus, RUNS, threads=1)
    assert [losses(one) for one in found] == [losses(one) for one in whole]
    for number, run in enumerate(runs):
        assert (tmp_path / str(number) / "weights.safetensors").exists(), run


@pytest.mark.slow
def test_compiled_stacks_have_the_eager_losses(corpus: TokenisedCorpus) -> None:
    recipe = small_recipe(6)
    recipe = replace(recipe, architecture=replace(recipe.architecture, layers=1))
    compiled = train_stacked(replace(recipe, compiled=True), corpus, RUNS, threads=1)
    eager = train_stacked(recipe, corpus, RUNS, threads=1)
    for one, other in zip(compiled, eager, strict=True):
        assert isinstance(other, TrainingResult)
        assert_near(one, other)
    if "compiled" not in compiled[0].execution:
        pytest.skip(f"this machine's C++ compiler doesn't serve: {compiled[0].execution}")
