"""A grown recipe is one run: what it reads, how it goes on, and what it refuses."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from mixlab.corpora.shards import TokenisedCorpus
from mixlab.errors import DomainTooSmall, InUse, InvalidRecipe
from mixlab.growing.planning import Growth
from mixlab.growing.running import run_grown
from mixlab.mixture import Mixture
from mixlab.schedules import MixtureSchedule, Stage
from mixlab.training import Beginning, Branch, train
from mixlab.training.checkpoints import folders
from mixlab.training.data import sampler_of
from mixlab.training.events import Event
from mixlab.training.spec import RunSpec
from tests.training.conftest import small_recipe, write_small_corpus

# A ramp that the growth falls into, and batches that grow after it.
SCHEDULE = MixtureSchedule(
    (
        Stage(Mixture({"counting": 0.9, "noise": 0.1}), tokens=1000),
        Stage(Mixture({"counting": 0.3, "noise": 0.7}), ramp_tokens=6000),
    )
)
RECIPE = replace(small_recipe(24), evaluation_steps=(4, 12, 24), batch_stages=((16, 12),))
GROWTH = Growth(factor=2, tokens=8 * RECIPE.tokens_per_step - 1)  # update 8 reaches them
AT = 8


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> TokenisedCorpus:
    return write_small_corpus(tmp_path_factory.mktemp("corpus"))


def spec_of(corpus: TokenisedCorpus, folder: Path, **changes: Any) -> RunSpec:
    given = {"seed": 1, "threads": 1, "checkpoint_seconds": 0.0}
    return RunSpec(corpus.folder, RECIPE, SCHEDULE, folder, **(given | changes))


def grown(
    spec: RunSpec,
    growth: Growth = GROWTH,
    emit: Callable[[Event], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> Event:
    return run_grown(spec, growth, emit=emit, stop=stop)


def numbers(ended: Event) -> dict[str, Any]:
    """All that must be equal to the last bit, as JSON holds it."""
    names = ("event", "step", "observations", "consumed", "skipped", "grown_at", "ended")
    return json.loads(json.dumps({name: ended[name] for name in names}))


@pytest.fixture(scope="module")
def whole(
    corpus: TokenisedCorpus, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Event, list[Event]]:
    """A grown run that nothing interrupted."""
    folder, told = tmp_path_factory.mktemp("whole") / "run", []
    ended = grown(spec_of(corpus, folder), emit=told.append)
    return folder, ended, told


def assert_equal(folder: Path, ended: Event, whole: tuple[Path, Event, list[Event]]) -> None:
    assert numbers(ended) == numbers(whole[1])
    ours, theirs = (load_file(of / "weights.safetensors") for of in (folder, whole[0]))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_both_parts_together_read_what_one_run_reads_and_no_token_twice(
    corpus: TokenisedCorpus, whole: tuple[Path, Event, list[Event]]
) -> None:
    ended, one = whole[1], sampler_of(RECIPE, corpus, SCHEDULE, seed=1, max_epochs=None)
    ranges = [(part["from_step"], part["to_step"]) for part in ended["consumed"]]
    assert ranges == [(0, 4), (4, 8), (8, 12), (12, 24)]
    for part in ended["consumed"]:
        first, last = part["from_step"], part["to_step"]
        assert part["tokens"] == one.consumed(first, last)
        assert part["epochs"] == one.epochs(first, last)
    assert sum(sum(part["tokens"].values()) for part in ended["consumed"]) == RECIPE.tokens
    # What the two runs say of themselves, by their own folders.
    parts = [json.loads((at / "spec.json").read_text()) for at in (whole[0] / "small", whole[0])]
    specs = [RunSpec.from_dict(part) for part in parts]
    slots = [
        (slot.domain, slot.epoch, slot.window)
        for spec in specs
        for step in range(spec.recipe.steps)
        for slot in sampler_of(
            spec.recipe, corpus, SCHEDULE, seed=1, max_epochs=None,
            first_token=spec.beginning.tokens if spec.beginning else 0,
        ).placements(step)
    ]  # fmt: skip
    assert len(slots) == len(set(slots)) == RECIPE.tokens // RECIPE.architecture.context


def test_the_large_run_begins_with_the_stacked_small_one_and_fresh_rates(
    corpus: TokenisedCorpus, whole: tuple[Path, Event, list[Event]], tmp_path: Path
) -> None:
    folder, ended, _ = whole
    small, large = (load_file(folder / name) for name in (
        "small/weights.safetensors", "grown.safetensors"))  # fmt: skip
    assert all(torch.equal(large[name], small[name]) for name in small)
    assert torch.equal(large["blocks.1.ffn.down.weight"], small["blocks.0.ffn.down.weight"])
    alone = replace(RECIPE, steps=24 - AT, evaluation_steps=(4, 16), batch_stages=((16 - AT, 12),))
    begin = Beginning(folder / "grown.safetensors", AT * RECIPE.tokens_per_step)
    result = train(alone, corpus, SCHEDULE, seed=1, threads=1, beginning=begin)
    assert ended["observations"][-1]["losses_nats"] == result.observations[-1].losses_nats


def test_events_count_over_both_parts_and_say_their_stage(
    whole: tuple[Path, Event, list[Event]],
) -> None:
    told = whole[2]
    stages = [one["stage"] for one in told if one["event"] == "stage"]
    assert stages == ["small model", "growth", "large model"]
    seen = [one for one in told if one["event"] == "observation"]
    assert [(one["step"], one["stage"]) for one in seen] == [
        (4, "small model"), (8, "small model"), (12, "large model"), (24, "large model"),
    ]  # fmt: skip
    assert [one["tokens"] for one in seen] == [RECIPE.tokens_before(s + 1) for s in (4, 8, 12, 24)]
    progress = [one for one in told if one["event"] == "progress"]
    assert {one["steps"] for one in progress} == {24}
    assert progress[-1]["tokens"] == RECIPE.tokens
    assert [one["event"] for one in told if one["event"] in ("ended", "stopped")] == ["ended"]
    assert whole[1]["grown_at"] == {"step": AT, "tokens": AT * RECIPE.tokens_per_step}


@given(stops=st.lists(st.integers(1, 23), min_size=1, max_size=3))
@settings(max_examples=5, deadline=None)
def test_a_grown_run_that_is_stopped_anywhere_goes_on_to_the_last_bit(
    stops: list[int],
    whole: tuple[Path, Event, list[Event]],
    corpus: TokenisedCorpus,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("stopped") / "run"
    for count in stops:
        calls = iter(range(count))
        stopped = grown(spec_of(corpus, folder), stop=lambda left=calls: next(left, None) is None)
        assert stopped["event"] in ("stopped", "ended")
    assert_equal(folder, grown(spec_of(corpus, folder)), whole)


@pytest.mark.parametrize(
    ("event", "stage"),
    [("stage", "small model"), ("observation", "small model"), ("stage", "growth"),
     ("stage", "large model"),
     ("observation", "large model"), ("ended", "large model")],
)  # fmt: skip
def test_a_grown_run_that_fails_between_any_two_parts_goes_on_to_the_last_bit(
    event: str, stage: str,
    whole: tuple[Path, Event, list[Event]], corpus: TokenisedCorpus, tmp_path: Path,
) -> None:  # fmt: skip
    def fail(told: Event) -> None:
        if (told["event"], told["stage"]) == (event, stage):
            raise Killed

    with pytest.raises(Killed):
        grown(spec_of(corpus, tmp_path / "run"), emit=fail)
    left = tmp_path / "run" / ".123-grown.safetensors"  # of a process killed while it wrote
    left.write_bytes(b"half")
    assert_equal(tmp_path / "run", grown(spec_of(corpus, tmp_path / "run")), whole)
    assert not left.exists()


def test_what_is_done_is_not_done_again(
    corpus: TokenisedCorpus, whole: tuple[Path, Event, list[Event]]
) -> None:
    folder, told = whole[0], []
    before = (folder / "grown.safetensors").stat().st_mtime_ns
    again = grown(spec_of(corpus, folder), emit=told.append)
    assert_equal(folder, again, whole)
    assert (folder / "grown.safetensors").stat().st_mtime_ns == before
    assert [one["event"] for one in told] == ["stage", "stage", "ended"]


def test_milestones_count_over_both_parts(corpus: TokenisedCorpus, tmp_path: Path) -> None:
    grown(spec_of(corpus, tmp_path, milestones=(3, AT + 2), keep_last=1))
    kept = [folders.steps_in(at / "checkpoints") for at in (tmp_path / "small", tmp_path)]
    assert kept == [[3, AT], [2, 24 - AT]]


def test_what_cannot_grow_is_refused_before_any_work(
    corpus: TokenisedCorpus, tmp_path: Path
) -> None:
    spec = spec_of(corpus, tmp_path / "run")
    for changed, growth, kind, told in (
        (spec, replace(GROWTH, factor=3), InvalidRecipe, "2 layers are not 3 times"),
        (spec, replace(GROWTH, tokens=RECIPE.tokens), InvalidRecipe, "it can grow after 1 to"),
        (replace(spec, start=Branch(tmp_path, 3)), GROWTH, InvalidRecipe, "begins with its own"),
        (replace(spec, beginning=Beginning(tmp_path)), GROWTH, InvalidRecipe, "its own small"),
        (replace(spec, max_epochs=0.1), GROWTH, DomainTooSmall, "not get to its growth"),
    ):
        with pytest.raises(kind, match=told):
            grown(changed, growth)
    assert not (tmp_path / "run").exists()
    for wrong, told in (
        ({"factor": 1}, "factor must be .* from 2 on, not 1"),
        ({"tokens": 0}, "tokens must be"),
        ({"operator": "split"}, "not by 'split'"),
    ):
        with pytest.raises(InvalidRecipe, match=told):
            replace(GROWTH, **wrong)  # type: ignore[arg-type]


def test_a_folder_of_another_run_is_refused(
    corpus: TokenisedCorpus, tmp_path: Path, whole: tuple[Path, Event, list[Event]]
) -> None:
    other = replace(GROWTH, operator="interleave")
    for changed, growth, told in (
        (spec_of(corpus, whole[0]), other, "another growth"),
        (spec_of(corpus, whole[0], seed=2), GROWTH, "another seed"),
        (replace(spec_of(corpus, whole[0]), recipe=replace(RECIPE, learning_rate=0.02)), GROWTH,
         "another recipe and large_recipe"),
    ):  # fmt: skip
        with pytest.raises(InvalidRecipe, match=told):
            grown(changed, growth)
    train(RECIPE, corpus, SCHEDULE, seed=1, threads=1, folder=tmp_path)
    with pytest.raises(InvalidRecipe, match="a run that doesn't grow"):
        grown(spec_of(corpus, tmp_path))


def test_two_at_once_in_one_folder_are_refused(
    corpus: TokenisedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders.locked, "__defaults__", (0.0,))
    lock = folders.locked(tmp_path / "small")
    assert lock is not None
    with pytest.raises(InUse, match=f"Another process trains in {tmp_path}"):
        grown(spec_of(corpus, tmp_path))
    os.close(lock)


PROGRAM = """
import sys
from pathlib import Path
from mixlab.corpora.shards import TokenisedCorpus
from tests.growing.test_growth_running import grown, spec_of
corpus, folder = map(Path, sys.argv[1:])
spec = spec_of(TokenisedCorpus.open(corpus), folder)
grown(spec, emit=lambda told: print(told["event"], flush=True))
"""


@pytest.mark.slow
def test_a_grown_run_that_is_killed_at_any_moment_goes_on_to_the_last_bit(
    corpus: TokenisedCorpus, whole: tuple[Path, Event, list[Event]], tmp_path: Path
) -> None:
    chance, folder = random.Random(5), tmp_path / "run"
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(corpus.folder), str(folder)],
            stdout=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            process.stdout.readline()  # it has begun; what it takes from here is about a second
            time.sleep(chance.uniform(0.0, 0.6))
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL or (folder / "weights.safetensors").exists()
    assert_equal(folder, grown(spec_of(corpus, folder)), whole)
