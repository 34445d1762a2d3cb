"""`mixlab train --grow`: a grown recipe from a shell, and what doesn't go with it."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from cli.main import app
from mixlab.errors import InvalidBudget, InvalidRecipe
from mixlab.recipes import recipe
from tests.cli import training


def train(folder: Path, *options: str, **changes: str | None) -> Result:
    at = str(4 * recipe("proxy_tiny").tokens_per_step)
    given: dict[str, str | None] = {"recipe": "proxy_tiny", "grow": "2", "grow-at": at}
    return training.train(folder, *options, **(given | changes))


def test_a_grown_run_is_told_as_one_and_goes_on_as_one(folder: Path) -> None:
    done = train(folder)
    assert done.exit_code == 0, done.output
    stages = ("small model", "growth", "large model")
    assert [done.stderr.index(stage) for stage in stages] == sorted(map(done.stderr.index, stages))
    assert "grown after step 4, 8,192 tokens" in done.stdout
    again = train(folder, "--json")
    told = json.loads(again.stdout)
    assert (told["ended"], told["step"], told["grown_at"]["step"]) == ("done", 12, 4)
    assert sum(sum(part["tokens"].values()) for part in told["consumed"]) == 12 * 2048
    depths = [
        sum(name.endswith("ffn.down.weight") for name in load_file(at / "weights.safetensors"))
        for at in (folder / "run" / "small", folder / "run")
    ]
    assert depths == [1, 2]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"grow": None}, "--grow-at"),
        ({"grow": "some"}, "no whole number, nor auto"),
        ({"hosts": "2"}, "only one host"),
        ({"branch-from": "x@12", "decay-steps": "2"}, "--branch-from"),
    ],
)
def test_options_that_do_not_go_together_are_named(
    folder: Path, tmp_path: Path, changes: dict[str, str | None], told: str
) -> None:
    if "branch-from" in changes:
        trunk = train(
            folder, "--milestone", "12", out=str(tmp_path / "x"),
            **{"grow": None, "grow-at": None},
        )  # fmt: skip
        assert trunk.exit_code == 0, trunk.output
        nothing = dict.fromkeys(("corpus", "recipe", "mixture", "steps"))
        changes = {**changes, **nothing, "branch-from": f"{tmp_path / 'x'}@12"}
    done = train(folder, **{"out": str(tmp_path / "run"), **changes})
    assert done.exit_code == 2
    assert told in done.output
    assert not (tmp_path / "run").exists()


def test_what_cannot_grow_is_refused_before_any_work(folder: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    for changes, kind, told in (
        ({"grow": "4"}, InvalidRecipe, "2 layers are not 4 times"),
        ({"grow-at": None}, InvalidBudget, "Say after how many tokens"),
        ({"grow-at": "100000"}, InvalidRecipe, "it can grow after 1 to"),
    ):
        done = train(folder, **{"out": out, **changes})
        assert isinstance(done.exception, kind)
        assert told in str(done.exception)
    assert not (tmp_path / "run").exists()


def test_grown_and_other_runs_keep_out_of_each_others_folders(folder: Path, tmp_path: Path) -> None:
    alone = {"grow": None, "grow-at": None}
    assert train(folder, out=str(tmp_path / "grown"), grow="auto").exit_code == 0
    assert train(folder, out=str(tmp_path / "plain"), **alone).exit_code == 0
    into_grown = train(folder, out=str(tmp_path / "grown"), **alone).exception
    into_plain = train(folder, out=str(tmp_path / "plain")).exception
    assert isinstance(into_grown, InvalidRecipe)
    assert "holds a run that grows" in str(into_grown)
    assert isinstance(into_plain, InvalidRecipe)
    assert "holds a run that doesn't grow" in str(into_plain)


@pytest.mark.slow
def test_several_processes_train_both_parts(folder: Path) -> None:
    one, two = (
        train(folder, "--json", out=str(folder / f"by-{count}"), processes=count, sharding=sharding)
        for count, sharding in (("1", "auto"), ("2", "shard"))
    )
    assert two.exit_code == 0, two.output
    ours, theirs = (json.loads(done.stdout) for done in (two, one))
    assert ours["consumed"] == theirs["consumed"]
    assert "2 x cpu" in ours["execution"]
    for seen, expected in zip(ours["observations"], theirs["observations"], strict=True):
        assert seen["step"] == expected["step"]
        assert seen["losses_nats"] == pytest.approx(expected["losses_nats"], abs=1e-5)


def test_batches_of_both_parts_are_those_that_the_run_consumed(folder: Path) -> None:
    told = json.loads(train(folder, "--json").stdout)
    corpus = str(folder / "corpus")
    found: dict[str, int] = {}
    for part in (folder / "run" / "small", folder / "run"):
        shown = CliRunner().invoke(
            app, ["batches", "consumed", corpus, "--run", str(part), "--json"]
        )
        for name, one in json.loads(shown.stdout)["domains"].items():
            found[name] = found.get(name, 0) + one["tokens"]
            assert one["planned_tokens"] == pytest.approx(one["tokens"], abs=3 * 128)
    consumed = [part["tokens"] for part in told["consumed"]]
    assert found == {name: sum(one[name] for one in consumed) for name in found}
