"""`mixlab model inherit`: from a run and from a Hugging Face folder to a smaller recipe."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from cli.main import app
from mixlab.corpora.shards import TokenisedCorpus
from mixlab.corpora.tokenising import tokenise
from mixlab.errors import (
    AlreadyExists,
    InvalidCorpus,
    InvalidMixture,
    InvalidRecipe,
    MissingFile,
    MixlabError,
    NotEnoughMemory,
)
from mixlab.mixture import Mixture
from mixlab.recipes import RECIPES, Recipe, proxy_smoke
from mixlab.training import train
from mixlab.training.beginning import Beginning
from mixlab.training.huggingface import read_trained
from tests.cli.test_models_command import text_source
from tests.training.llamas import TEXTS

RUN = CliRunner()


def heir() -> Recipe:
    """Half of `donor` in every dimension."""
    made = proxy_smoke()
    shape = replace(made.architecture, layers=2, vocabulary=300)
    return replace(made, name="heir", architecture=shape)


def donor() -> Recipe:
    shape = replace(heir().architecture, layers=4, width=64, heads=4, kv_heads=2, ffn_width=128)
    return replace(heir(), name="donor", architecture=shape).lasting(30)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TokenisedCorpus]:
    folder = tmp_path_factory.mktemp("donor")
    source = text_source(folder, " ".join(TEXTS[:2]) * 20)
    corpus = tokenise([source], folder / "corpus", vocabulary=300)
    run = folder / "run"
    train(donor(), corpus, Mixture({"text": 1.0}), seed=0, folder=run)
    (run / "spec.json").write_text(json.dumps({"corpus": str(corpus.folder)}))
    return run, corpus


@pytest.fixture(autouse=True)
def _named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "heir", heir)
    monkeypatch.setitem(
        RECIPES,
        "larger",
        lambda: replace(
            donor(), name="larger", architecture=(replace(donor().architecture, layers=5))
        ),
    )


def command(donor: Path, out: Path, corpus: Path, **options: str) -> list[str]:
    given = {"recipe": "heir", "corpus": str(corpus), "mixture": "text=1", **options}
    return [
        "model", "inherit", str(donor), str(out),
        *(part for name, value in given.items() for part in (f"--{name}", value)),
    ]  # fmt: skip


def test_a_run_and_its_export_give_the_same_heir(
    trained: tuple[Path, TokenisedCorpus], tmp_path: Path
) -> None:
    run, corpus = trained
    first, second, hf = tmp_path / "first", tmp_path / "second", tmp_path / "hf"
    done = RUN.invoke(app, command(run, first, corpus.folder))
    assert done.exit_code == 0, (done.output, done.exception)
    assert "before any training" in done.stdout
    assert "could not be checked" not in done.stdout
    assert RUN.invoke(app, ["model", "export", str(run), str(hf)]).exit_code == 0
    done = RUN.invoke(app, [*command(hf, second, corpus.folder), "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    report = json.loads(done.stdout)
    assert report["layers"]["kept"][0] == 0
    assert report["layers"]["kept"][-1] == 3
    assert report == json.loads((second / "inheritance.json").read_text())
    one, other = load_file(first / "weights.safetensors"), load_file(second / "weights.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert read_trained(first).architecture == heir().architecture
    # A run begins with it: at a rate of next to nothing it stays what it is.
    still = replace(heir(), steps=2, learning_rate=1e-9, warmup_steps=0, evaluation_steps=(2,))
    began = Beginning(first / "weights.safetensors")
    train(still, corpus, Mixture({"text": 1.0}), seed=3, folder=tmp_path / "run", beginning=began)
    after = load_file(tmp_path / "run" / "weights.safetensors")
    assert all(torch.allclose(after[name], one[name], rtol=0, atol=1e-7) for name in one)
    # An heir is a model like any: transformers loads it.
    exported = RUN.invoke(app, ["model", "export", str(first), str(tmp_path / "heir-hf")])
    assert exported.exit_code == 0, (exported.output, exported.exception)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "heir-hf").config.num_hidden_layers == 2


def test_what_would_give_a_wrong_heir_is_refused_before_any_work(
    trained: tuple[Path, TokenisedCorpus], tmp_path: Path
) -> None:
    run, corpus = trained
    out = tmp_path / "out"

    def refused(by: type[MixlabError], donor: Path = run, **options: str) -> str:
        given = {"corpus": str(corpus.folder), **options}
        where = Path(given.pop("corpus"))
        problem = RUN.invoke(app, command(donor, out, where, **given)).exception
        assert isinstance(problem, by), problem
        return str(problem)

    assert "5 layers and the donor 4" in refused(InvalidRecipe, recipe="larger")
    refused(MissingFile, donor=corpus.folder)
    refused(InvalidMixture, mixture="other=1")
    other = tmp_path / "other"
    tokenise([text_source(tmp_path, "other words " * 9)], other, vocabulary=300)
    assert "another tokenizer" in refused(InvalidCorpus, corpus=str(other))
    assert not out.exists()
    out.mkdir()
    (out / "mine").write_text("")
    refused(AlreadyExists)


def test_more_calibration_than_memory_holds_is_refused(
    trained: tuple[Path, TokenisedCorpus], tmp_path: Path
) -> None:
    run, corpus = trained
    many = command(run, tmp_path / "heir", corpus.folder, sequences=str(10**12))
    assert isinstance(RUN.invoke(app, many).exception, NotEnoughMemory)
    assert not (tmp_path / "heir").exists()
