"""`mixlab model export` and `import`, on a run of real text."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from cli.main import app
from mixlab.corpora.shards import TokenisedCorpus
from mixlab.corpora.tokenising import DomainSource, tokenise
from mixlab.errors import InvalidCorpus, MissingFile, MixlabError
from mixlab.mixture import Mixture
from mixlab.training import train
from tests.training.conftest import small_recipe
from tests.training.llamas import TEXTS, VOCABULARY

RUN = CliRunner()


def text_source(folder: Path, text: str) -> DomainSource:
    """60 documents that differ in their last word."""
    lines = [json.dumps({"text": f"{text} {i}"}) for i in range(60)]
    (folder / "text.jsonl").write_text("\n".join(lines))
    return DomainSource("text", (str(folder / "text.jsonl"),))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TokenisedCorpus]:
    """A run of three updates on real text, and its corpus."""
    folder = tmp_path_factory.mktemp("run")
    source = text_source(folder, " ".join(TEXTS[:2]) * 20)
    corpus = tokenise([source], folder / "corpus", vocabulary=VOCABULARY)
    recipe = small_recipe(steps=3)
    recipe = replace(recipe, architecture=replace(recipe.architecture, vocabulary=VOCABULARY))
    train(recipe, corpus, Mixture({"text": 1.0}), seed=0, folder=folder / "run")
    return folder / "run", corpus


def test_a_run_is_exported_and_imported_by_command(
    run_folder: tuple[Path, TokenisedCorpus], tmp_path: Path
) -> None:
    run, corpus = run_folder
    hf, back, again = tmp_path / "hf", tmp_path / "back", tmp_path / "again"
    done = RUN.invoke(app, ["model", "export", str(run), str(hf), "--corpus", str(corpus.folder)])
    assert done.exit_code == 0, (done.output, done.exception)
    assert RUN.invoke(app, ["model", "import", str(hf), str(back)]).exit_code == 0
    # The imported folder is like a run's, and brings its tokenizer.
    assert RUN.invoke(app, ["model", "export", str(back), str(again)]).exit_code == 0
    first, last = load_file(run / "weights.safetensors"), load_file(back / "weights.safetensors")
    assert first.keys() == last.keys()
    assert all(torch.equal(first[name], last[name]) for name in first)
    assert (again / "model.safetensors").read_bytes() == (hf / "model.safetensors").read_bytes()
    model, words = AutoModelForCausalLM.from_pretrained(hf), AutoTokenizer.from_pretrained(hf)
    text = torch.tensor([words.encode(TEXTS[0])])
    loss = model(text, labels=text).loss.item()
    assert loss < math.log(VOCABULARY) + 1
    some = corpus.stream("text", "train").window(0, 30).astype(np.int64)
    assert words.encode(words.decode(some)) == some.tolist()


def test_a_runs_spec_names_its_corpus(
    run_folder: tuple[Path, TokenisedCorpus], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(run_folder[0], run)
    (run / "spec.json").write_text(json.dumps({"corpus": str(run_folder[1].folder)}))
    assert RUN.invoke(app, ["model", "export", str(run), str(tmp_path / "hf")]).exit_code == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert len(tokenizer) == run_folder[1].vocabulary


def refused(*command: str) -> MixlabError:
    problem = RUN.invoke(app, ["model", *command]).exception
    assert isinstance(problem, MixlabError), problem
    return problem


def test_commands_refuse_what_would_give_a_wrong_model(
    run_folder: tuple[Path, TokenisedCorpus], tmp_path: Path
) -> None:
    run, corpus = map(str, (run_folder[0], run_folder[1].folder))
    out = str(tmp_path / "out")
    assert isinstance(refused("export", run, out), MissingFile)
    assert isinstance(refused("export", corpus, out, "--corpus", corpus), MissingFile)
    other = tmp_path / "other"
    tokenise([text_source(tmp_path, "other words")], other, vocabulary=VOCABULARY)
    assert isinstance(refused("export", run, out, "--corpus", str(other)), InvalidCorpus)
    assert not (tmp_path / "out").exists()
