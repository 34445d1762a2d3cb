"""Rounds in one folder: what they read, that they go on where they stopped, what is refused."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from mixlab.corpora.drawn import DRAWN_FILE, DrawnSet
from mixlab.corpora.shards import TokenisedCorpus
from mixlab.errors import InUse, InvalidRecipe
from mixlab.mixture import Mixture
from mixlab.rounds.plan import Rounds
from mixlab.rounds.running import drawn_for, run_rounds
from mixlab.schedules import MixtureSchedule, Stage
from mixlab.training.beginning import Beginning
from mixlab.training.checkpoints import folders
from mixlab.training.events import Event
from mixlab.training.spec import RunSpec
from mixlab.training.weights import WEIGHTS
from tests.training.conftest import small_recipe, write_small_corpus

STEPS = 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rounds")
    write_small_corpus(folder / "corpus")
    return folder


@pytest.fixture
def spec(folder: Path, tmp_path: Path, mixture: Mixture) -> RunSpec:
    return RunSpec(
        corpus=folder / "corpus", recipe=small_recipe(STEPS), folder=tmp_path / "run",
        schedule=MixtureSchedule.of(mixture), seed=5,
    )  # fmt: skip


def trained(
    spec: RunSpec, rounds: Rounds, stop_after: int | None = None
) -> tuple[Event, list[Event]]:
    told: list[Event] = []
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return stop_after is not None and asked > stop_after

    return run_rounds(spec, rounds, emit=told.append, stop=stop), told


def test_two_rounds_are_told_as_one_run(spec: RunSpec) -> None:
    last, told = trained(spec, Rounds(2, 0.5))
    assert last["event"] == "ended"
    assert last["step"] == STEPS
    # Where the recipe is evaluated, 24 and 48, and at the end of the first round.
    assert [seen["step"] for seen in last["observations"]] == [24, 32, 48]
    assert [seen["tokens"] for seen in last["observations"]] == [256 * s for s in (24, 32, 48)]
    assert sum(sum(one["tokens"].values()) for one in last["consumed"]) == spec.recipe.tokens
    assert [one["stage"] for one in told if one["event"] == "stage"] == [
        "round 1 of 2", "score round 1 of 2", "round 2 of 2",
    ]  # fmt: skip
    steps = [one["step"] for one in told if one["event"] == "progress"]
    assert steps == sorted(steps)
    # The mixture is kept: 0.7 and 0.3 of 16 updates of 8 sequences, within one sequence.
    drawn = drawn_for(spec.folder)["round 2"]
    assert drawn["drift"] < 0.01
    later = [one["tokens"]["counting"] for one in last["consumed"] if one["from_step"] >= 32]
    assert sum(later) == pytest.approx(0.7 * 16 * 256, abs=32)


@given(
    steps=st.integers(8, 200), count=st.integers(2, 4), share=st.sampled_from([0.25, 0.5, 0.9]),
    seen=st.sets(st.integers(1, 200), min_size=1),
)  # fmt: skip
def test_rounds_have_the_updates_and_evaluations_of_the_recipe(
    steps: int, count: int, share: float, seen: set[int]
) -> None:
    wanted = sorted({step for step in seen if step <= steps} or {steps})
    recipe = replace(small_recipe(steps), evaluation_steps=tuple(wanted))
    ends, before = [], 0
    for part in Rounds(count, share).recipes(recipe):
        at = {before + step for step in part.evaluation_steps}
        before += part.steps
        ends.append(before)
        assert at == {step for step in wanted if before - part.steps < step <= before} | {before}
    assert (len(ends), ends[-1]) == (count, steps)


def test_what_is_drawn_was_read_and_is_harder(spec: RunSpec, folder: Path) -> None:
    """The noise can't be learned, so that freely drawn text has more of it."""
    trained(spec, Rounds(2, 0.5, keep_proportions=False))
    drawn = DrawnSet.read(spec.folder / DRAWN_FILE)
    assert drawn.told["drawn"]["noise"] > drawn.told["read"]["noise"]
    assert drawn.told["loss_drawn_nats"] > drawn.told["loss_read_nats"]
    assert drawn.corpus == TokenisedCorpus.open(folder / "corpus").fingerprint


@pytest.mark.parametrize("rounds", [Rounds(2, 0.5), Rounds(3, 0.4, "batch")])
def test_stopped_anywhere_it_goes_on_to_the_same_end(spec: RunSpec, rounds: Rounds) -> None:
    whole, _ = trained(replace(spec, folder=spec.folder / "whole"), rounds)
    broken = replace(spec, folder=spec.folder / "broken")
    for stops in (3, 29, 10, 25, 7, 15):
        last, _ = trained(broken, rounds, stop_after=stops)
        if last["event"] == "ended":
            break
    else:
        last, _ = trained(broken, rounds)
    assert last["observations"] == whole["observations"]
    assert last["consumed"] == whole["consumed"]
    one, other = spec.folder / "whole", spec.folder / "broken"
    assert (one / DRAWN_FILE).read_bytes() == (other / DRAWN_FILE).read_bytes()
    before, after = (load_file(way / WEIGHTS) for way in (one, other))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_share_too_small_for_one_sequence_is_left_out_of_later_rounds(spec: RunSpec) -> None:
    rare = MixtureSchedule.of(Mixture({"counting": 0.999999, "noise": 1e-6}))
    last, _ = trained(replace(spec, schedule=rare), Rounds(2, 0.5))
    assert last["ended"] == "done"
    assert drawn_for(spec.folder)["round 2"]["drawn"].get("noise", 0.0) == 0.0
    assert {one["tokens"].get("noise", 0) for one in last["consumed"]} == {0}


def test_a_round_of_fewer_updates_than_parts_of_scores(spec: RunSpec) -> None:
    last, _ = trained(replace(spec, recipe=small_recipe(6)), Rounds(2, 0.5))
    assert (last["ended"], last["step"]) == ("done", 6)


def test_two_at_once_in_one_folder_are_refused(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders.locked, "__defaults__", (0.0,))
    lock = folders.locked(spec.folder / "round-1")
    assert lock is not None
    with pytest.raises(InUse, match="Another process trains in"):
        trained(spec, Rounds(2, 0.5))
    os.close(lock)


def test_another_run_in_the_folder_is_told(spec: RunSpec) -> None:
    trained(spec, Rounds(2, 0.5))
    with pytest.raises(InvalidRecipe, match="with another rounds"):
        trained(spec, Rounds(2, 0.25))
    with pytest.raises(InvalidRecipe, match="with another seed"):
        trained(replace(spec, seed=6), Rounds(2, 0.5))
    again, _ = trained(spec, Rounds(2, 0.5))
    assert again["step"] == STEPS


class TestRefused:
    def test_numbers_that_are_none(self) -> None:
        for bad, message in (
            ({"count": 1}, "one round is a run without any"),
            ({"share": 1.0}, "above 0 and below 1"),
            ({"share": 0.0}, "above 0 and below 1"),
            ({"unit": "word"}, "not by 'word'"),
        ):
            with pytest.raises(InvalidRecipe, match=message):
                Rounds(**bad)  # type: ignore[arg-type]

    def test_too_few_updates(self, spec: RunSpec) -> None:
        with pytest.raises(InvalidRecipe, match="too few for 3 rounds"):
            trained(replace(spec, recipe=small_recipe(2)), Rounds(3, 0.3))

    def test_what_rounds_can_not_be(self, spec: RunSpec, mixture: Mixture, tmp_path: Path) -> None:
        stages = MixtureSchedule((Stage(mixture, 512), Stage(mixture)))
        for other in (
            replace(spec, schedule=stages),
            replace(spec, max_epochs=4.0),
            replace(spec, milestones=(3,)),
            replace(spec, beginning=Beginning(tmp_path / "w")),
            replace(spec, drawn=tmp_path / "d"),
        ):
            with pytest.raises(InvalidRecipe, match="A run in rounds"):
                trained(other, Rounds())
        assert not spec.folder.exists()


def test_the_spec_comes_back_from_its_file(spec: RunSpec, tmp_path: Path) -> None:
    named = replace(spec, drawn=tmp_path / "drawn.parquet")
    assert RunSpec.read(named.write(tmp_path / "spec.json")) == named
    assert json.loads((tmp_path / "spec.json").read_text())["drawn"] == str(named.drawn)
