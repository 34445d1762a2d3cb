"""`mixlab proxies`: plans in words and JSON, and runs from a file of mixtures to a table."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cli.main import app
from cli.named_mixtures import named_mixtures
from mixlab.errors import InvalidMixture, InvalidTable, MissingFile, TruncatedFile
from mixlab.mixture import Mixture
from mixlab.tables import read_table
from tests.training.conftest import write_small_corpus

PLANNED = [
    "proxies",
    "plan",
    "--recipe",
    "proxy_smoke",
    "--stack",
    "2",
    "--steps",
    "8",
    "--seconds",
    "0.5",
]


def run(*arguments: str) -> str:
    found = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


def test_a_plan_tells_way_reasons_and_cost() -> None:
    told = run(*PLANNED, "--runs", "5", "--price-per-hour", "2")
    assert "taken: stacks of 2 runs, 3 one after another" in told
    assert "FLOPs (6 (N - input embedding) + 12 L d T) for 20,480 tokens" in told
    assert "hours of the device" in told
    assert "no price" in run(*PLANNED, "--runs", "2")


def test_a_plan_as_json() -> None:
    found = json.loads(run(*PLANNED, "--runs", "4", "--vocabulary", "1000", "--json"))
    assert found["recipe"]["architecture"]["vocabulary"] == 1000
    assert (found["way"], found["stack"], found["rounds"]) == ("stacked", 2, 2)
    assert found["measured"][0]["way"] == "stacked"
    assert found["cost"]["price"] is None


def test_a_stack_that_is_no_number_is_refused() -> None:
    found = CliRunner().invoke(app, [*PLANNED[:4], "--runs", "4", "--stack", "many"])
    assert found.exit_code == 2
    assert "must be a number of runs or auto" in found.output


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


TABLE = (
    "run,mixture.counting,mixture.noise,seed,learning_rate,loss.noise\n"
    "one,0.25,0.75,3,0.001,9\ntwo,1,0,,,9\ntwo,1,0,,,8\n"
)


def test_mixtures_are_read_from_tables_and_json(tmp_path: Path) -> None:
    found = named_mixtures(written(tmp_path / "m.csv", TABLE), seed=5)
    assert [(one.name, one.seed, one.learning_rate) for one in found] == [
        ("one", 3, 0.001), ("two", 5, None),
    ]  # fmt: skip
    assert found[0].mixture == Mixture({"counting": 0.25, "noise": 0.75})
    designed = {"mixtures": {"a": {"x": 0.5, "y": 0.5}, "b": {"x": 1.0}}, "plan": None}
    found = named_mixtures(written(tmp_path / "d.json", json.dumps(designed)), seed=0)
    assert found[1].mixture == Mixture({"x": 1.0, "y": 0.0})
    rows = [{"run": "a/b", "mixture": {"x": 0.5, "y": 0.5}, "seed": 2}]
    found = named_mixtures(written(tmp_path / "r.json", json.dumps(rows)), seed=0)
    assert found[0].seed == 2
    assert found[0].folder.startswith("a-b-")


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("m.csv", "run,mixture.x,mixture.y\na,0.7,0.7\n", InvalidTable),
        ("m.csv", "run,mixture.x,mixture.y\na,0.5,0.5\na,0.6,0.4\n", InvalidTable),
        ("m.csv", "run,mixture.x,mixture.y,seed\na,0.5,0.5,many\n", InvalidTable),
        ("m.csv", "name,share\na,0.5\n", InvalidTable),
        ("m.json", "{", TruncatedFile),
        ("m.json", "[1]", InvalidMixture),
        ("m.json", '{"a": 3}', InvalidMixture),
        ("m.json", "{}", InvalidTable),
    ],
)
def test_files_without_mixtures_are_refused_in_words(
    name: str, text: str, error: type[Exception], tmp_path: Path
) -> None:
    with pytest.raises(error, match="m"):
        named_mixtures(written(tmp_path / name, text), seed=0)
    with pytest.raises(MissingFile):
        named_mixtures(tmp_path / "absent.csv", seed=0)


def test_runs_from_a_file_become_a_table_and_are_not_trained_twice(tmp_path: Path) -> None:
    write_small_corpus(tmp_path / "corpus")
    mixtures = written(tmp_path / "m.csv", TABLE)
    command = [
        "proxies", "train", "--corpus", str(tmp_path / "corpus"), "--recipe", "proxy_smoke",
        "--mixtures", str(mixtures), "--out", str(tmp_path / "out"), "--steps", "8",
        "--stack", "2", "--threads", "1", "--seconds", "0.5",
    ]  # fmt: skip
    first = run(*command)
    assert "runs: 2 done" in first
    table = read_table(tmp_path / "out" / "observations.parquet")
    assert sorted(set(table.runs)) == ["one", "two"]
    assert table.domains == ("counting", "noise")
    assert sorted(set(table.steps.tolist())) == [2, 4, 6, 8]
    assert (tmp_path / "out" / "runs" / "two" / "weights.safetensors").exists()
    assert json.loads((tmp_path / "out" / "plan.json").read_text())["stack"] == 2
    again = json.loads(run(*command, "--json"))
    assert {one["ended"] for one in again["runs"]} == {"done"}
    same = read_table(tmp_path / "out" / "observations.parquet")
    np.testing.assert_array_equal(same.losses_nats, table.losses_nats)
