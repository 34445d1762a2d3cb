"""`mixlab batches show` and `consumed`, as a user types them, beside the sampler itself."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cli.main import app
from mixlab.corpora.sampling import Sampler
from mixlab.corpora.shards import TokenisedCorpus, write_corpus
from mixlab.errors import InvalidCorpus, MissingFile, TruncatedFile
from mixlab.mixture import Mixture
from mixlab.recipes import proxy_smoke
from mixlab.schedules import MixtureSchedule, Stage

RUN = CliRunner()
STAGED = MixtureSchedule(
    (Stage(Mixture({"law": 1.0}), 2000), Stage(Mixture({"code": 0.5, "law": 0.5}), None, 1000))
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> TokenisedCorpus:
    rng = np.random.default_rng(0)
    documents = {
        name: {"train": [rng.integers(1, 500, 40) for _ in range(count)]}
        for name, count in (("code", 30), ("law", 90))
    }
    folder = tmp_path_factory.mktemp("corpus")
    return write_corpus(folder, documents, vocabulary=512, end_of_text_id=0, shard_documents=20)


def sampler(corpus: TokenisedCorpus) -> Sampler:
    chosen = proxy_smoke()
    return Sampler(
        {name: corpus.stream(name, "train") for name in corpus.domains}, STAGED, seed=5,
        context=chosen.architecture.context, batch_sequences=chosen.batch_sequences,
    )  # fmt: skip


def named(corpus: TokenisedCorpus) -> list[str]:
    text = json.dumps(STAGED.to_dict())
    return [str(corpus.folder), "--mixture", text, "--recipe", "proxy_smoke", "--seed", "5"]


def printed(*arguments: str) -> Any:
    result = RUN.invoke(app, ["batches", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def run_folder(folder: Path, **changes: Any) -> Path:
    """A run's folder as training leaves it, as far as batches are concerned."""
    identity = {
        "recipe": proxy_smoke().to_dict(), "mixture": STAGED.to_dict(), "seed": 5, "corpus": "",
        **changes,
    }  # fmt: skip
    for step, found in ((10, {**identity, "seed": 99}), (20, identity)):
        place = folder / "checkpoints" / f"step-{step:09d}"
        place.mkdir(parents=True)
        (place / "run.json").write_text(json.dumps({"identity": found}))
    return folder


def test_show_names_the_documents_of_every_row(corpus: TokenisedCorpus) -> None:
    found = printed("show", *named(corpus), "--step", "7")
    assert found["step"] == 7
    assert found["tokens_before"] == 6 * 8 * 64
    expected = [slot.to_dict() for slot in sampler(corpus).placements(6)]
    assert found["slots"] == json.loads(json.dumps(expected))
    table = RUN.invoke(app, ["batches", "show", *named(corpus), "--step", "7"], terminal_width=200)
    assert table.exit_code == 0
    assert "step 7, after 3,072 tokens" in table.output
    assert "d001/train-0000" in table.output


def test_consumed_is_the_samplers_beside_the_plan(corpus: TokenisedCorpus) -> None:
    made = sampler(corpus)
    found = printed("consumed", *named(corpus), "--steps", "40")
    assert {name: one["tokens"] for name, one in found["domains"].items()} == made.consumed(0, 40)
    assert {name: one["epochs"] for name, one in found["domains"].items()} == made.epochs(0, 40)
    planned = {name: one["planned_tokens"] for name, one in found["domains"].items()}
    assert planned == pytest.approx(STAGED.planned(40 * 8 * 64))
    # 30 documents of 41 tokens are 19 windows of 64 tokens, and a tail.
    times = made.consumed(0, 40)["code"] / (19 * 64)
    assert found["domains"]["code"]["times_read"] == pytest.approx(times)
    assert times > 4
    assert len(found["notes"]) == 1
    assert found["notes"][0].startswith(f"code is read {times:.1f} times; beyond 4")


def test_consumed_without_steps_is_the_whole_recipe(corpus: TokenisedCorpus) -> None:
    assert printed("consumed", *named(corpus))["tokens"] == proxy_smoke().tokens
    table = RUN.invoke(app, ["batches", "consumed", *named(corpus)], terminal_width=120)
    assert "60 steps, 30,720 tokens" in table.output
    assert "whole" in table.output


def test_a_runs_folder_names_its_batches(corpus: TokenisedCorpus, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    at = ["--step", "3"]
    one = printed("show", str(corpus.folder), "--run", str(folder), *at)
    assert one == printed("show", *named(corpus), *at)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"corpus": "other"}, InvalidCorpus),
        ({"recipe": {}}, TruncatedFile),
        ({"seed": None}, TruncatedFile),
    ],
)
def test_another_runs_folder_is_refused(
    corpus: TokenisedCorpus, tmp_path: Path, changes: dict[str, Any], problem: type[Exception]
) -> None:
    folder = run_folder(tmp_path / "run", **changes)
    arguments = ["batches", "show", str(corpus.folder), "--run", str(folder), "--step", "1"]
    with pytest.raises(problem):
        RUN.invoke(app, arguments, catch_exceptions=False)


def test_a_folder_without_checkpoints_is_refused(corpus: TokenisedCorpus, tmp_path: Path) -> None:
    arguments = ["batches", "show", str(corpus.folder), "--run", str(tmp_path), "--step", "1"]
    with pytest.raises(MissingFile, match="give a run's folder"):
        RUN.invoke(app, arguments, catch_exceptions=False)


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--mixture", "law=1"],
        ["--recipe", "proxy_smoke"],
        ["--run", "x", "--recipe", "proxy_smoke"],
        ["--mixture", "law=1", "--recipe", "proxy_smoke", "--step", "0"],
    ],
)
def test_a_run_is_named_in_one_way(corpus: TokenisedCorpus, options: list[str]) -> None:
    step = [] if "--step" in options else ["--step", "1"]
    result = RUN.invoke(app, ["batches", "show", str(corpus.folder), *options, *step])
    assert result.exit_code == 2


def test_steps_beyond_what_64_bits_count_are_refused(corpus: TokenisedCorpus) -> None:
    named = ["--mixture", "law=1", "--recipe", "proxy_smoke"]
    for command, option in (("show", "--step"), ("consumed", "--steps")):
        done = RUN.invoke(app, ["batches", command, str(corpus.folder), *named, option, "9" * 30])
        assert done.exit_code == 2, done.output
