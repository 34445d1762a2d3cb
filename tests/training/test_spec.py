"""A run's spec: what is written is read back, and what can't be followed is refused in words."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mixlab.errors import InvalidMixture, InvalidRecipe, MissingFile, MixlabError, TruncatedFile
from mixlab.mixture import Mixture
from mixlab.schedules import MixtureSchedule, Stage
from mixlab.training.branches import Branch
from mixlab.training.spec import RunSpec
from tests.training.conftest import small_recipe

HALF = Mixture({"counting": 0.5, "noise": 0.5})


def spec_of(tmp_path: Path, **options: Any) -> RunSpec:
    values = {
        "corpus": tmp_path / "corpus", "recipe": small_recipe(), "folder": tmp_path / "run",
        "schedule": MixtureSchedule.of(HALF),
    }  # fmt: skip
    return RunSpec(**(values | options))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"seed": 7, "threads": 2, "checkpoint_seconds": 0.0, "keep_last": 5, "max_epochs": 1.5},
        {"milestones": (3, 9), "trackers": ("tensorboard",), "sharding": "shard"},
        {"start": Branch(Path("/trunk"), 20, 10), "events": Path("/events")},
        {
            "schedule": MixtureSchedule(
                (Stage(HALF, 1000), Stage(Mixture({"noise": 1.0}), None, ramp_tokens=300))
            )
        },
    ],
)
def test_what_is_written_is_read_back(tmp_path: Path, options: dict[str, Any]) -> None:
    spec = spec_of(tmp_path, **options)
    path = spec.write(tmp_path / "deep" / "spec.json")
    assert RunSpec.read(path) == spec
    assert [file.name for file in path.parent.iterdir()] == ["spec.json"]


def test_paths_count_from_the_specs_own_folder(tmp_path: Path) -> None:
    value = spec_of(tmp_path).to_dict()
    value |= {"corpus": "../corpus", "folder": ".", "start": {"folder": "../trunk", "step": 4}}
    (tmp_path / "spec.json").write_text(json.dumps(value))
    found = RunSpec.read(tmp_path / "spec.json")
    assert found.folder == tmp_path
    assert found.corpus.resolve() == tmp_path.parent / "corpus"
    assert found.start == Branch(tmp_path / "../trunk", 4)


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "kind", "told"),
    [
        (lambda v: v.pop("corpus"), InvalidRecipe, "KeyError: 'corpus'"),
        (lambda v: v.update(optimizer="sgd"), InvalidRecipe, "optimizer"),
        (lambda v: v.update(folder=7), InvalidRecipe, "TypeError"),
        (lambda v: v.update(seed=-1), InvalidRecipe, "seed must be a whole number from 0"),
        (lambda v: v.update(seed=2**63), InvalidRecipe, "seed must be a whole number from 0"),
        (lambda v: v.update(seed=1.5), InvalidRecipe, "not 1.5"),
        (lambda v: v.update(keep_last=None), InvalidRecipe, "keep_last .* not None"),
        (lambda v: v.update(threads=100_000), InvalidRecipe, "threads .* to 1024, not 100000"),
        (lambda v: v.update(checkpoint_seconds=math.nan), InvalidRecipe, "at least 0, not nan"),
        (lambda v: v.update(milestones=[41]), InvalidRecipe, "updates, 1 to 40, not 41"),
        (lambda v: v.update(milestones=[0]), InvalidRecipe, "updates, 1 to 40, not 0"),
        (lambda v: v.update(milestones=["a"]), InvalidRecipe, "not 'a'"),
        (
            lambda v: v.update(start={"folder": "a", "step": "9", "decay_steps": 5}),
            InvalidRecipe,
            "TypeError",
        ),
        (
            lambda v: v.update(start={"folder": "a", "step": 9, "decay_steps": 0}),
            InvalidRecipe,
            "at least 1 update, not 0",
        ),
        (lambda v: v.update(keep_last=0), InvalidRecipe, "keep_last must be a whole number from 1"),
        (lambda v: v.update(threads="two"), InvalidRecipe, "threads .* not 'two'"),
        (lambda v: v.update(max_epochs=0), InvalidRecipe, "max_epochs must be above 0"),
        (lambda v: v.update(sharding="tensor"), InvalidRecipe, "auto, replicate or shard"),
        (lambda v: v.update(trackers=["abacus"]), InvalidRecipe, "abacus"),
        (lambda v: v.update(start={"step": 3}), InvalidRecipe, "folder"),
        (lambda v: v["recipe"].update(steps=0), InvalidRecipe, "steps"),
        (lambda v: v["recipe"].update(steps=10**18), InvalidRecipe, "longer than anything"),
        (lambda v: v["recipe"].update(evaluation_steps=[1.5]), InvalidRecipe, "evaluation_steps"),
        (lambda v: v["recipe"].update(batch_stages=[[2.5, 9]]), InvalidRecipe, "batch_stages"),
        (lambda v: v["recipe"].update(compiled="no"), InvalidRecipe, "compiled must be true"),
        (
            lambda v: v["recipe"]["architecture"].update(tied_head="no"),
            InvalidRecipe,
            "tied_head must be true",
        ),
        (lambda v: v["recipe"].pop("steps"), InvalidRecipe, "steps"),
        (lambda v: v.update(schedule={"stages": []}), InvalidMixture, "at least one stage"),
        (lambda v: v.update(schedule=None), InvalidMixture, "stages"),
    ],
)
def test_a_spec_that_cannot_be_followed_is_refused_in_words(
    tmp_path: Path, change: Change, kind: type[MixlabError], told: str
) -> None:
    value = spec_of(tmp_path).to_dict()
    change(value)
    (tmp_path / "spec.json").write_text(json.dumps(value))
    with pytest.raises(kind, match=told):
        RunSpec.read(tmp_path / "spec.json")


def test_a_missing_file_and_no_json_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"spec\.json"):
        RunSpec.read(tmp_path / "spec.json")
    (tmp_path / "spec.json").write_text('{"corpus": ')
    with pytest.raises(TruncatedFile, match="no JSON"):
        RunSpec.read(tmp_path / "spec.json")
    (tmp_path / "spec.json").write_text("[1]")
    with pytest.raises(InvalidRecipe, match="holds a list"):
        RunSpec.read(tmp_path / "spec.json")


def test_a_change_is_checked_too(tmp_path: Path) -> None:
    with pytest.raises(InvalidRecipe, match="sharding"):
        replace(spec_of(tmp_path), sharding="none")  # type: ignore[arg-type]
