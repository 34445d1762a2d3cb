"""`mixlab tokenizer coverage` and `compress`, on real text and a run of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from cli.main import app
from mixlab.corpora.shards import TokenisedCorpus
from mixlab.corpora.tokenising import tokenise
from mixlab.corpora.tokenizer import load_tokenizer, vocabulary_of
from mixlab.errors import AlreadyExists, InvalidCorpus, MissingFile, MixlabError, NotWritten
from mixlab.mixture import Mixture
from mixlab.training import train
from mixlab.training.huggingface import read_trained
from tests.compressing.conftest import write_sources
from tests.training.conftest import small_recipe

RUN = CliRunner()
MIXTURE = ("--mixture", "prose=0.6,code=0.4")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> TokenisedCorpus:
    folder = tmp_path_factory.mktemp("corpus")
    return tokenise(
        write_sources(folder), folder / "tokens", vocabulary=400, validation_fraction=0.2
    )


@pytest.fixture(scope="module")
def run(corpus: TokenisedCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = small_recipe(steps=2)
    recipe = replace(recipe, architecture=replace(recipe.architecture, vocabulary=400))
    folder = tmp_path_factory.mktemp("run")
    train(recipe, corpus, Mixture({"prose": 0.6, "code": 0.4}), seed=0, folder=folder)
    return folder


def told(*command: str) -> Result:
    done = RUN.invoke(app, ["tokenizer", *command])
    assert done.exit_code == 0, (done.output, done.exception)
    return done


def test_coverage_is_a_table_a_curve_and_a_suggestion(
    corpus: TokenisedCorpus, tmp_path: Path
) -> None:
    plot = tmp_path / "curve.svg"
    options = (str(corpus.folder), *MIXTURE, "--recipe", "tinyllama_1b")
    shown = told("coverage", *options, "--plot", str(plot)).output
    assert "embedding and head" in shown
    assert "suggested: " in shown
    assert "tokens kept" in plot.read_text() or "<svg" in plot.read_text()
    found = json.loads(told("coverage", *options, "--json").stdout)
    assert found["must_stay"] == 257
    assert [row["tokens"] for row in found["sizes"]][-1] == found["size"] == 400
    assert found["sizes"][-1]["coverage"] == 1.0
    assert found["suggestion"]["vocabulary"] == 400
    bare = json.loads(told("coverage", str(corpus.folder), *MIXTURE, "--json").stdout)
    assert bare["suggestion"] is None
    assert "none suggested: " in told(
        "coverage", str(corpus.folder), *MIXTURE, "--recipe", "proxy_smoke"
    ).output  # fmt: skip


def test_the_mixture_decides_what_is_kept(corpus: TokenisedCorpus, tmp_path: Path) -> None:
    pieces = {}
    for name in ("prose", "code"):
        out = tmp_path / f"{name}.json"
        told("compress", str(corpus.folder), "--mixture", f"{name}=1", "--vocabulary", "290",
             "--out", str(out))  # fmt: skip
        pieces[name] = set(load_tokenizer(out).get_vocab())
    assert {"\u0120lazy", "\u0120dog"} & pieces["prose"] - pieces["code"]
    assert {"\u0120width", "return", "\u0120return"} & pieces["code"] - pieces["prose"]


def test_the_mean_mixture_of_a_schedule_is_taken(corpus: TokenisedCorpus, tmp_path: Path) -> None:
    stages = {
        "stages": [
            {"proportions": {"prose": 1.0}, "tokens": 600},
            {"proportions": {"code": 1.0}},
        ]
    }
    options = (str(corpus.folder), "--mixture", json.dumps(stages), "--json")
    refused = RUN.invoke(app, ["tokenizer", "coverage", *options])
    assert refused.exit_code == 2
    found = told("coverage", *options, "--tokens", "1000").stdout
    assert found == told("coverage", str(corpus.folder), *MIXTURE, "--json").stdout


def test_weights_follow_and_the_tokenizer_makes_a_corpus(
    corpus: TokenisedCorpus, run: Path, tmp_path: Path
) -> None:
    out, folder = tmp_path / "small.json", tmp_path / "weights"
    done = told(
        "compress", str(corpus.folder), *MIXTURE, "--vocabulary", "300", "--out", str(out),
        "--weights", str(run), "--weights-out", str(folder),
    )  # fmt: skip
    assert f"written: {out}" in done.output.replace("\n", "")
    made = read_trained(folder)
    assert made.architecture.vocabulary == vocabulary_of(load_tokenizer(out)) == 300
    again = tokenise(write_sources(tmp_path), tmp_path / "again", tokenizer_file=out)
    assert again.vocabulary == 300
    exported = RUN.invoke(app, ["model", "export", str(folder), str(tmp_path / "hf")])
    assert exported.exit_code == 0, exported.exception


def test_sizes_are_told_for_programs(corpus: TokenisedCorpus, tmp_path: Path) -> None:
    options = ("--vocabulary", "300", "--out", str(tmp_path / "t.json"), "--json")
    found = json.loads(told("compress", str(corpus.folder), *MIXTURE, *options).stdout)
    assert (found["vocabulary"], found["of"]) == (300, 400)
    assert 0.5 < found["coverage"] < 1
    for sizes in found["tokens_per_byte"].values():
        assert 0 < sizes["before"] < sizes["after"] < 1.2


def refused(*command: str) -> MixlabError:
    problem = RUN.invoke(app, ["tokenizer", *command]).exception
    assert isinstance(problem, MixlabError), problem
    return problem


def test_what_can_not_be_done_is_refused_before_anything_is_written(
    corpus: TokenisedCorpus, run: Path, tmp_path: Path
) -> None:
    folder, out = str(corpus.folder), str(tmp_path / "t.json")
    base = ("compress", folder, *MIXTURE, "--out", out)
    weights = ("--weights", str(run), "--weights-out", str(tmp_path / "w"))
    for size in ("256", "401"):
        assert "no part of this tokenizer" in str(refused(*base, "--vocabulary", size, *weights))
    other = ("compress", folder, "--mixture", "other=1", "--out", out, "--vocabulary", "300")
    assert isinstance(refused(*other), InvalidCorpus)
    nothing = ("--weights", str(tmp_path), "--weights-out", str(tmp_path / "w"))
    assert isinstance(refused(*base, "--vocabulary", "300", *nothing), MissingFile)
    taken = ("--weights", str(run), "--weights-out", str(run))
    assert isinstance(refused(*base, "--vocabulary", "300", *taken), AlreadyExists)
    assert RUN.invoke(app, ["tokenizer", *base, "--vocabulary", "300", *weights[:2]]).exit_code == 2
    assert isinstance(refused("coverage", folder, *MIXTURE, "--plot", out), NotWritten)
    assert not list(tmp_path.iterdir())
    (tmp_path / "t.json").write_text("mine")
    assert isinstance(refused(*base, "--vocabulary", "300"), AlreadyExists)
