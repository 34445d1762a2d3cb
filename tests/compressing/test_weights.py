import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from mixlab.compressing import (
    Compressed,
    check_model,
    compress,
    compress_model,
    compress_weights,
    open_model,
    shares_at,
    token_counts,
)
from mixlab.compressing.tensors import read_header, select_rows
from mixlab.corpora.shards import TokenisedCorpus
from mixlab.corpora.tokenizer import load_tokenizer
from mixlab.errors import (
    AlreadyExists,
    InvalidCorpus,
    InvalidRecipe,
    MissingFile,
    NotWritten,
    TruncatedFile,
)
from mixlab.mixture import Mixture
from mixlab.training import train
from mixlab.training.decoder import Decoder
from mixlab.training.huggingface import export_huggingface, import_huggingface, read_trained
from mixlab.training.weights import load_weights
from tests.training.conftest import small_recipe

MIXTURE = Mixture({"prose": 0.6, "code": 0.4})


@pytest.fixture(scope="module")
def smaller(spoken: TokenisedCorpus) -> Compressed:
    tokenizer = load_tokenizer(spoken.folder / "tokenizer.json")
    return compress(tokenizer, shares_at(token_counts(spoken), MIXTURE), 330)


@pytest.fixture(scope="module", params=[False, True], ids=["own head", "tied head"])
def run(
    request: pytest.FixtureRequest,
    spoken: TokenisedCorpus,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A run's folder, of a model with five rows more than the tokenizer has tokens."""
    recipe = small_recipe(steps=3)
    shape = replace(recipe.architecture, vocabulary=405, tied_head=request.param)
    folder = tmp_path_factory.mktemp("run")
    train(replace(recipe, architecture=shape), spoken, MIXTURE, seed=0, folder=folder)
    return folder


def logits(weights: Path, tokens: torch.Tensor) -> torch.Tensor:
    model = Decoder(read_trained(weights.parent).architecture)
    load_weights(weights, model)
    with torch.no_grad():
        return model(tokens)


def test_kept_tokens_have_the_logits_that_they_had(
    run: Path, smaller: Compressed, tmp_path: Path
) -> None:
    compress_model(open_model(run), tmp_path / "new", smaller)
    chosen = torch.randint(330, (2, 20), generator=torch.Generator().manual_seed(0))
    kept = torch.from_numpy(smaller.kept_ids)
    before = logits(run / "weights.safetensors", kept[chosen])[..., kept]
    after = logits(tmp_path / "new" / "weights.safetensors", chosen)
    torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-6)


def test_all_other_weights_are_the_same_bits(
    run: Path, smaller: Compressed, tmp_path: Path
) -> None:
    compress_model(open_model(run), tmp_path / "new", smaller)
    old = load_file(run / "weights.safetensors")
    new = load_file(tmp_path / "new" / "weights.safetensors")
    assert old.keys() == new.keys()
    for name, tensor in old.items():
        rows = tensor[smaller.kept_ids] if name in ("embedding.weight", "head.weight") else tensor
        assert torch.equal(new[name], rows), name
    made = read_trained(tmp_path / "new")
    assert made.architecture.vocabulary == 330
    assert made.tokenizer is not None
    assert load_tokenizer(made.tokenizer).get_vocab() == smaller.tokenizer.get_vocab()


def test_a_file_of_weights_follows_too(run: Path, smaller: Compressed, tmp_path: Path) -> None:
    compress_model(open_model(run), tmp_path / "folder", smaller)
    source = run / "weights.safetensors"
    compress_weights(source, tmp_path / "weights.safetensors", smaller.kept_ids)
    one, other = load_file(tmp_path / "weights.safetensors"), load_file(source)
    assert torch.equal(one["embedding.weight"], other["embedding.weight"][smaller.kept_ids])
    assert open_model(tmp_path / "weights.safetensors").rows == 330


@pytest.mark.parametrize("number_format", ["float32", "bfloat16"])
@pytest.mark.parametrize("shard_bytes", [5_000_000, 20_000])
def test_a_hugging_face_folder_follows(
    run: Path,
    spoken: TokenisedCorpus,
    smaller: Compressed,
    tmp_path: Path,
    number_format: str,
    shard_bytes: int,
) -> None:
    trained = read_trained(run)
    export_huggingface(
        tmp_path / "old", trained.weights, trained.architecture,
        tokenizer=spoken.folder / "tokenizer.json",
        number_format=number_format,  # type: ignore[arg-type]
        shard_bytes=shard_bytes,
    )  # fmt: skip
    model = open_model(tmp_path / "old")
    assert (len(model.files) > 1) == (shard_bytes < 5_000_000)
    tokenizer = load_tokenizer(spoken.folder / "tokenizer.json")
    check_model(model, spoken, tokenizer)
    compress_model(model, tmp_path / "new", smaller)

    old = AutoModelForCausalLM.from_pretrained(tmp_path / "old")
    new = AutoModelForCausalLM.from_pretrained(tmp_path / "new")
    words = AutoTokenizer.from_pretrained(tmp_path / "new")
    assert new.config.vocab_size == len(words) == 330
    assert words.convert_ids_to_tokens(new.generation_config.eos_token_id) == "<|endoftext|>"
    ids = words("The dog returns, zw\u00f6lf", return_tensors="pt")["input_ids"]
    assert words.decode(ids[0]) == "The dog returns, zw\u00f6lf"
    kept = torch.from_numpy(smaller.kept_ids)
    with torch.no_grad():
        before, after = old(kept[ids]).logits[..., kept], new(ids).logits
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    import_huggingface(tmp_path / "new")  # which checks every tensor and the tokenizer


def test_ids_in_settings_follow(
    run: Path, spoken: TokenisedCorpus, smaller: Compressed, tmp_path: Path
) -> None:
    trained = read_trained(run)
    tokenizer = spoken.folder / "tokenizer.json"
    old, new = tmp_path / "old", tmp_path / "new"
    export_huggingface(old, trained.weights, trained.architecture, tokenizer=tokenizer)
    last, gone = int(smaller.kept_ids[-1]), next(
        i for i in range(400) if i not in set(smaller.kept_ids.tolist())
    )  # fmt: skip
    config = json.loads((old / "config.json").read_text())
    config |= {"bos_token_id": last, "eos_token_id": [0, last, gone], "pad_token_id": gone}
    (old / "config.json").write_text(json.dumps(config))
    decoder = {"added_tokens_decoder": {"0": {"content": "<|endoftext|>"}, str(gone): {}}}
    (old / "tokenizer_config.json").write_text(json.dumps(decoder))
    (old / "vocab.json").write_text("{}")
    compress_model(open_model(old), new, smaller)
    config = json.loads((new / "config.json").read_text())
    assert config["bos_token_id"] == 329
    assert config["eos_token_id"] == [0, 329]
    assert config["pad_token_id"] is None
    entries = json.loads((new / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert entries == {"0": {"content": "<|endoftext|>"}}
    assert not (new / "vocab.json").exists()


def test_models_of_other_tokens_are_refused_before_any_work(
    run: Path, spoken: TokenisedCorpus, smaller: Compressed, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(spoken.folder / "tokenizer.json")
    model = open_model(run)
    check_model(model, spoken, tokenizer)
    drawn = replace(model, run={"identity": {"corpus": f"{spoken.fingerprint}/of-a-round"}})
    check_model(drawn, spoken, tokenizer)
    larger = load_tokenizer(spoken.folder / "tokenizer.json")
    larger.add_tokens([f"added {i}" for i in range(6)])
    with pytest.raises(InvalidCorpus, match=r"has 405 tokens, but the corpus's tokenizer 406"):
        check_model(model, spoken, larger)
    with pytest.raises(InvalidCorpus, match="trained on another corpus"):
        check_model(model, replace(spoken, fingerprint="other"), tokenizer)
    with pytest.raises(InvalidRecipe, match="rows, but the kept tokens reach to row 900"):
        compress_weights(
            run / "weights.safetensors", tmp_path / "new", np.array([0, 899], dtype=np.int64)
        )
    assert not list(tmp_path.iterdir())
    shutil.copytree(run, tmp_path / "own")
    smaller.tokenizer.save(str(tmp_path / "own" / "tokenizer.json"))
    with pytest.raises(InvalidCorpus, match=r"other tokens than the corpus's tokenizer \(330"):
        check_model(open_model(tmp_path / "own"), spoken, tokenizer)
    with pytest.raises(AlreadyExists):
        compress_model(model, tmp_path / "own", smaller)


def test_files_that_are_no_model_say_why(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"neither weights.safetensors nor model"):
        open_model(tmp_path)
    file = tmp_path / "weights.safetensors"
    for content in (b"", b"\x00" * 4, b"\xff" * 40, b"\x02" + b"\x00" * 7 + b"[]", b"\x09" * 9):
        file.write_bytes(content)
        with pytest.raises((TruncatedFile, InvalidRecipe)):
            open_model(tmp_path)
    save_file({"embedding.weight": torch.zeros(4, 2)}, file)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(TruncatedFile, match="length is another"):
        open_model(tmp_path)
    save_file({"other": torch.zeros(4, 2)}, file)
    with pytest.raises(InvalidRecipe, match="none of the tables"):
        open_model(tmp_path)
    save_file({"embedding.weight": torch.zeros(4, 2)}, file)
    with pytest.raises(MissingFile, match=r"no config\.json that tells"):
        open_model(tmp_path)
    save_file({"embedding.weight": torch.zeros(4, 2)}, file, {"run": "[]"})
    with pytest.raises(TruncatedFile, match="damaged note of its run"):
        open_model(tmp_path)
    save_file({"embedding.weight": torch.zeros(4, 2)}, file, {"run": "{}"})
    with pytest.raises(TruncatedFile, match="doesn't say of what shape"):
        open_model(tmp_path)
    with pytest.raises(NotWritten):
        select_rows(file, tmp_path / "no" / "folder" / "file", {}, {})


DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_rows_are_those_that_torch_chooses(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    sizes = st.lists(st.integers(0, 4), max_size=2)
    tensors, rows = {}, {}
    for name in data.draw(st.lists(st.sampled_from("abcdef"), min_size=1, unique=True)):
        count = data.draw(st.integers(1, 40))
        shape = (count, *data.draw(sizes))
        dtype = data.draw(st.sampled_from(DTYPES))
        tensors[name] = torch.randint(0, 2, shape).to(dtype)
        if data.draw(st.booleans()):
            chosen = data.draw(st.lists(st.integers(0, count - 1), unique=True))
            rows[name] = np.array(sorted(chosen), dtype=np.int64)
    save_file(tensors, folder / "old", {"format": "pt"})
    select_rows(folder / "old", folder / "new", rows, {"format": "pt", "more": "\u00e9"})
    found = load_file(folder / "new")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor[rows[name]] if name in rows else tensor)
        assert found[name].dtype == tensor.dtype
    assert read_header(folder / "new").metadata == {"format": "pt", "more": "\u00e9"}
