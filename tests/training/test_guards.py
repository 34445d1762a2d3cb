"""Guards leave out the updates that they say, and nothing else: equal to a loop without them."""

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixlab.corpora.shards import TokenisedCorpus
from mixlab.errors import Diverged, InvalidRecipe
from mixlab.mixture import Mixture
from mixlab.recipes import Recipe
from mixlab.schedules import MixtureSchedule, Stage
from mixlab.training import TrainingResult, train
from mixlab.training.checkpoints.folders import steps_in
from mixlab.training.data import sampler_of
from mixlab.training.decoder import Decoder
from mixlab.training.guards import GRADIENT, LOSS, LOSSES_NEEDED, Guard
from mixlab.training.objective import NextTokenLoss
from mixlab.training.optimiser import adamw, learning_rate
from mixlab.training.state import RunState
from mixlab.training.weights import load_weights
from tests.training.conftest import small_recipe

COUNTING, NOISE = Mixture({"counting": 1.0}), Mixture({"noise": 1.0})
SPIKE = 26  # the one update that reads noise


def one_spike(recipe: Recipe) -> MixtureSchedule:
    """Text that can be learned, but for one batch in the middle."""
    before = (SPIKE - 1) * recipe.tokens_per_step
    return MixtureSchedule(
        (Stage(COUNTING, before), Stage(NOISE, recipe.tokens_per_step), Stage(COUNTING))
    )


def spiky(on_anomaly: str, steps: int = 40) -> Recipe:
    return replace(small_recipe(steps), on_anomaly=on_anomaly, spike_nats=1.0)


def weights(recipe: Recipe, folder: Path) -> dict[str, torch.Tensor]:
    model = Decoder(recipe.architecture)
    load_weights(folder / "weights.safetensors", model)
    return dict(model.named_parameters())


def plain_loop(
    recipe: Recipe, corpus: TokenisedCorpus, schedule: MixtureSchedule, skip: Sequence[int]
) -> dict[str, torch.Tensor]:
    """The shortest loop that trains, without the updates named."""
    sampler = sampler_of(recipe, corpus, schedule, seed=1, max_epochs=None)
    model = Decoder(recipe.architecture)
    model.initialise(1)
    loss, optimiser = NextTokenLoss(model), adamw(model, recipe)
    for step in range(1, recipe.steps + 1):
        if step in skip:
            continue
        (loss(torch.from_numpy(sampler.batch(step - 1))) / recipe.tokens_per_step).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_clip)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(recipe, step)
        optimiser.step()
        optimiser.zero_grad()
    return dict(model.named_parameters())


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("on_anomaly", "left_out"),
    [("skip", [SPIKE]), ("roll_back", list(range(SPIKE - 7, SPIKE + 1)))],
)
def test_a_spike_is_left_out_and_the_rest_is_trained(
    corpus: TokenisedCorpus, tmp_path: Path, on_anomaly: str, left_out: list[int]
) -> None:
    recipe = spiky(on_anomaly)
    schedule = one_spike(recipe)
    result = train(recipe, corpus, schedule, seed=1, threads=1, folder=tmp_path)
    assert [entry["step"] for entry in result.skipped] == left_out
    assert result.skipped[-1]["what"] == LOSS
    assert result.skipped[-1]["value"] > 3
    assert [seen.step for seen in result.observations] == [20, 40]
    assert_equal(weights(recipe, tmp_path), plain_loop(recipe, corpus, schedule, left_out))
    # The batch was read, and the ledger says both.
    assert sum(entry["tokens"]["noise"] for entry in result.consumed) == recipe.tokens_per_step
    assert sorted(step for entry in result.consumed for step in entry["skipped"]) == left_out


def test_a_second_roll_back_leaves_out_what_the_first_did(
    corpus: TokenisedCorpus, tmp_path: Path
) -> None:
    """Though it goes back to before both, and no checkpoint knows of the first."""
    recipe = spiky("roll_back")
    tokens = recipe.tokens_per_step
    first, second = 15, 34
    schedule = MixtureSchedule(
        (
            Stage(COUNTING, (first - 1) * tokens), Stage(NOISE, tokens),
            Stage(COUNTING, (second - first - 1) * tokens), Stage(NOISE, tokens), Stage(COUNTING),
        )
    )  # fmt: skip
    result = train(recipe, corpus, schedule, seed=1, threads=1, folder=tmp_path)
    left_out = [*range(first - 7, first + 1), *range(second - 7, second + 1)]
    assert [entry["step"] for entry in result.skipped] == left_out
    assert_equal(weights(recipe, tmp_path), plain_loop(recipe, corpus, schedule, left_out))


def test_after_a_roll_back_no_checkpoint_of_what_was_left_is_there(
    corpus: TokenisedCorpus, tmp_path: Path
) -> None:
    """A kill would else go on from one, or a branch begin there."""
    recipe, kept = spiky("roll_back"), []

    def look() -> bool:
        kept.append(set(steps_in(tmp_path / "checkpoints")))
        return False

    train(recipe, corpus, one_spike(recipe), seed=1, threads=1, folder=tmp_path, stop=look,
          checkpoint_seconds=1e9, keep_last=9, milestones=(SPIKE - 8, SPIKE - 3))  # fmt: skip
    gone = [before - after for before, after in pairwise(kept) if before - after]
    assert gone == [{SPIKE - 3}]


def test_how_often_checkpoints_are_made_changes_no_roll_back(
    corpus: TokenisedCorpus, tmp_path: Path
) -> None:
    recipe = spiky("roll_back")
    often, once = (
        train(recipe, corpus, one_spike(recipe), seed=1, threads=1, folder=tmp_path / name,
              checkpoint_seconds=1e9, milestones=steps)
        for name, steps in (("often", (5, 11, 17, 18, 20, 25)), ("once", ()))
    )  # fmt: skip
    assert often.observations == once.observations
    assert often.skipped == once.skipped


def test_without_a_limit_nothing_is_a_spike(corpus: TokenisedCorpus, tmp_path: Path) -> None:
    recipe = replace(spiky("skip"), spike_nats=None)
    result = train(recipe, corpus, one_spike(recipe), seed=1, threads=1, folder=tmp_path)
    assert result.skipped == ()
    assert_equal(weights(recipe, tmp_path), plain_loop(recipe, corpus, one_spike(recipe), []))


def test_to_fail_names_step_value_and_way_out(corpus: TokenisedCorpus) -> None:
    recipe = spiky("fail")
    told = rf"training loss is \d\.\d+ at step {SPIKE}, where the latest .* raise spike_nats"
    with pytest.raises(Diverged, match=told):
        train(recipe, corpus, one_spike(recipe), seed=1, threads=1)


def test_data_that_stays_different_is_no_spike_but_an_end(corpus: TokenisedCorpus) -> None:
    recipe = spiky("skip", 60)
    turned = MixtureSchedule((Stage(COUNTING, 25 * recipe.tokens_per_step), Stage(NOISE)))
    with pytest.raises(Diverged, match=r"at step 35, .*the 10th update skipped in a row"):
        train(recipe, corpus, turned, seed=1, threads=1)


@pytest.mark.parametrize(
    ("on_anomaly", "told"),
    [("skip", "10th update skipped in a row"), ("roll_back", "5 roll-backs")],
)
def test_weights_that_are_no_numbers_end_the_run(
    corpus: TokenisedCorpus, mixture: Mixture, tmp_path: Path, on_anomaly: str, told: str
) -> None:
    recipe = replace(spiky(on_anomaly, 80), learning_rate=1e30)
    with pytest.raises(Diverged, match=told):
        train(recipe, corpus, mixture, seed=1, threads=1, folder=tmp_path)


def test_to_roll_back_takes_a_folder(corpus: TokenisedCorpus, mixture: Mixture) -> None:
    with pytest.raises(InvalidRecipe, match="needs checkpoints; give the run a folder"):
        train(spiky("roll_back"), corpus, mixture, seed=1)


def stopping_after(steps: int) -> "object":
    asked = iter([False] * (steps - 1) + [True] * 1000)
    return lambda: next(asked)


@pytest.mark.parametrize("on_anomaly", ["skip", "roll_back"])
def test_a_resumed_run_leaves_out_the_same_updates(
    corpus: TokenisedCorpus, tmp_path: Path, on_anomaly: str
) -> None:
    recipe = spiky(on_anomaly)

    def attempt(folder: str, stop: "object" = None) -> TrainingResult:
        return train(recipe, corpus, one_spike(recipe), seed=1, threads=1,
                     folder=tmp_path / folder, stop=stop)  # fmt: skip

    whole = attempt("whole")
    stops = (3, 21, 2) if on_anomaly == "skip" else (12, 20)
    for steps in stops:
        assert attempt("parts", stopping_after(steps)).ended == "stopped"
    resumed = attempt("parts")
    assert resumed.skipped == whole.skipped
    assert resumed.observations == whole.observations
    assert_equal(weights(recipe, tmp_path / "parts"), weights(recipe, tmp_path / "whole"))


@given(steps=st.sets(st.integers(1, 40)), step=st.integers(1, 40))
def test_updates_left_out_in_a_row_end_with_the_latest(steps: set[int], step: int) -> None:
    state = RunState(skipped=[{"step": one} for one in sorted(steps)])
    count = state.skips_in_a_row(step)
    assert steps.issuperset(range(step - count + 1, step + 1))
    assert step - count not in steps


TWO_RANKS = """
import json, sys
from pathlib import Path
from mixlab.corpora.shards import TokenisedCorpus
from mixlab.training import train
from mixlab.training.parallel import World
from tests.training.test_guards import one_spike, spiky

with World.of_environment() as world:
    for on_anomaly in ("skip", "roll_back"):
        recipe, folder = spiky(on_anomaly), Path(sys.argv[2]) / on_anomaly
        found = train(recipe, TokenisedCorpus.open(sys.argv[1]), one_spike(recipe), seed=1,
                      threads=1, folder=folder, world=world)
        told = [list(found.skipped), found.observations[-1].losses_nats]
        (folder / f"rank-{world.rank}.json").write_text(json.dumps(told))
"""


@pytest.mark.slow
def test_ranks_leave_out_the_same_updates_as_one_process(
    corpus: TokenisedCorpus, tmp_path: Path
) -> None:
    (tmp_path / "ranks.py").write_text(TWO_RANKS)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    arguments = [str(tmp_path / "ranks.py"), str(corpus.folder), str(tmp_path)]
    subprocess.run([*torchrun, "--nproc-per-node", "2", *arguments], check=True, timeout=200)
    for on_anomaly in ("skip", "roll_back"):
        one = train(spiky(on_anomaly), corpus, one_spike(spiky(on_anomaly)), seed=1, threads=1,
                    folder=tmp_path / f"{on_anomaly}-alone")  # fmt: skip
        for rank in (0, 1):
            told = (tmp_path / on_anomaly / f"rank-{rank}.json").read_text()
            skipped, losses_nats = json.loads(told)
            assert [entry["step"] for entry in skipped] == [entry["step"] for entry in one.skipped]
            assert losses_nats == pytest.approx(one.observations[-1].losses_nats, abs=1e-5)


losses = st.floats(min_value=0.1, max_value=12, allow_nan=False)


@given(st.lists(losses, min_size=LOSSES_NEEDED, max_size=80), losses)
def test_a_spike_is_what_lies_above_the_median_of_the_latest(seen: list[float], now: float) -> None:
    recipe = replace(small_recipe(), spike_nats=2.0)
    guard = Guard(recipe, seen)
    latest = sorted(seen[-50:])
    middle = (latest[(len(latest) - 1) // 2] + latest[len(latest) // 2]) / 2
    found = guard.anomaly(100, now, 1.0)
    assert (found is not None) == (now > middle + 2.0)
    assert (list(guard.recent)[-1] == now) or found is not None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_anomalous_from_the_first_step(value: float) -> None:
    guard = Guard(small_recipe())
    assert guard.anomaly(1, value, 1.0).what == LOSS
    assert guard.anomaly(1, 1.0, value).what == GRADIENT
    assert not guard.recent
    assert guard.anomaly(1, 1.0, value).to_dict()["value"] == str(value)


def test_a_spike_needs_losses_to_compare_with() -> None:
    guard = Guard(replace(small_recipe(), spike_nats=1.0))
    assert all(guard.anomaly(step, 1.0, 1.0) is None for step in range(1, LOSSES_NEEDED))
    assert guard.anomaly(LOSSES_NEEDED, 9.0, 1.0) is None
    assert guard.anomaly(LOSSES_NEEDED + 1, 9.0, 1.0) is not None
