"""Export and import against transformers itself: logits, gradients, bits, encoding, generation."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import AddedToken, Tokenizer, models, normalizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from mixlab.corpora.parts import encode
from mixlab.corpora.shards import token_dtype
from mixlab.corpora.tokenizer import END_OF_TEXT, end_of_text_id, load_tokenizer, train_tokenizer
from mixlab.errors import AlreadyExists, InvalidRecipe
from mixlab.recipes import Architecture
from mixlab.training.head import loss_sum
from mixlab.training.huggingface import export_huggingface, import_huggingface
from tests.training.llamas import (
    GROUPED,
    SHAPES,
    TEXTS,
    VOCABULARY,
    decoder,
    exported,
    llama,
    some_tokens,
    weights_of,
    write_tokenizer,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_transformers_has_the_logits_of_an_exported_model(
    shape: Architecture, tmp_path: Path, tokenizer: Path
) -> None:
    ours = decoder(shape)
    theirs = AutoModelForCausalLM.from_pretrained(exported(ours, tmp_path / "hf", tokenizer))
    assert type(theirs) is LlamaForCausalLM
    assert theirs.dtype == torch.float32
    tokens = some_tokens(shape)
    with torch.no_grad():
        difference = ours(tokens) - theirs(tokens).logits
    assert difference.abs().max().item() < 1e-4


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_an_imported_model_has_the_logits_of_transformers(
    shape: Architecture, tmp_path: Path
) -> None:
    theirs = llama(shape)
    theirs.save_pretrained(tmp_path, max_shard_size="100KB")
    found = import_huggingface(tmp_path)
    assert found.architecture == shape
    tokens = some_tokens(shape)
    with torch.no_grad():
        difference = found.decoder()(tokens) - theirs(tokens).logits
    assert difference.abs().max().item() < 1e-4


def test_gradients_are_those_of_transformers(tmp_path: Path, tokenizer: Path) -> None:
    ours = decoder(GROUPED)
    theirs = AutoModelForCausalLM.from_pretrained(exported(ours, tmp_path / "hf", tokenizer))
    tokens = some_tokens(GROUPED)
    theirs(tokens, labels=tokens).loss.backward()
    features = ours.features(tokens[:, :-1]).flatten(0, 1)
    targets = tokens[:, 1:].flatten()
    (loss_sum(features, ours.head.weight, targets) / len(targets)).backward()
    found = {name: weight.grad for name, weight in theirs.named_parameters()}
    attention = "model.layers.1.self_attn"
    joined = torch.cat([found[f"{attention}.{name}_proj.weight"] for name in "qkv"])
    own = dict(ours.named_parameters())
    for mine, other in (
        (own["blocks.1.attention.qkv.weight"].grad, joined),
        (own["embedding.weight"].grad, found["model.embed_tokens.weight"]),
        (own["head.weight"].grad, found["lm_head.weight"]),
        (
            own["blocks.0.ffn_norm.weight"].grad,
            found["model.layers.0.post_attention_layernorm.weight"],
        ),
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shard_bytes", [10**9, 60_000])
@pytest.mark.parametrize("tied", [False, True])
def test_a_trip_there_and_back_keeps_every_bit(
    tmp_path: Path, tokenizer: Path, tied: bool, shard_bytes: int
) -> None:
    model = decoder(replace(GROUPED, tied_head=tied))
    folder = exported(model, tmp_path / "hf", tokenizer, shard_bytes=shard_bytes)
    found = import_huggingface(folder)
    assert found.architecture == model.shape
    assert found.tokenizer == folder / "tokenizer.json"
    tensors = dict(found.tensors())
    assert tensors.keys() == weights_of(model).keys()
    assert all(torch.equal(tensors[name], weight) for name, weight in weights_of(model).items())
    again = dict(found.decoder().named_parameters())
    assert all(torch.equal(again[name], weight) for name, weight in weights_of(model).items())


def test_large_models_are_written_in_shards_under_an_index(tmp_path: Path, tokenizer: Path) -> None:
    model = decoder(GROUPED)
    folder = exported(model, tmp_path / "hf", tokenizer, shard_bytes=60_000)
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) > 2
    # The two tables are 57,600 bytes each: a tensor is never cut.
    assert all(sum(t.nbytes for t in load_file(file).values()) <= 60_000 for file in files)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * GROUPED.parameters
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    tokens = some_tokens(GROUPED)
    with torch.no_grad():
        assert (model(tokens) - theirs(tokens).logits).abs().max().item() < 1e-4


def test_bfloat16_weights_are_read_as_the_float32_nearest_to_them(
    tmp_path: Path, tokenizer: Path
) -> None:
    model = decoder(GROUPED)
    folder = exported(model, tmp_path / "hf", tokenizer, number_format="bfloat16")
    assert AutoModelForCausalLM.from_pretrained(folder, dtype="auto").dtype == torch.bfloat16
    found = dict(import_huggingface(folder).tensors())
    for name, weight in weights_of(model).items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], weight.bfloat16().float())


def with_begin_and_end(path: Path) -> Path:
    """A tokenizer whose file adds <s> and </s>, pads and cuts, as many of Llama's kind do."""
    made = train_tokenizer({"text": TEXTS}, vocabulary=VOCABULARY - 2)
    made.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    begin, end = made.token_to_id("<s>"), made.token_to_id("</s>")
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>",
        special_tokens=[("<s>", begin), ("</s>", end)],
    )  # fmt: skip
    made.enable_padding(length=64)
    made.enable_truncation(8)
    made.save(str(path))
    return path


def as_llama_two(path: Path) -> Path:
    """Pieces of words with a mark for spaces, bytes for what they lack, </s> for the end."""
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 20, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    made.train_from_iterator([TEXTS[0], TEXTS[3]], trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", made.token_to_id("<s>"))]
    )
    made.save(str(path))
    return path


TOKENIZERS: dict[str, Callable[[Path], Path]] = {
    "ours": lambda path: write_tokenizer(path.parent),
    "adding, padding and cutting": with_begin_and_end,
    "as of Llama 2": as_llama_two,
}


@pytest.mark.parametrize("make", TOKENIZERS.values(), ids=TOKENIZERS.keys())
def test_texts_are_encoded_as_the_corpus_was(make: Callable[[Path], Path], tmp_path: Path) -> None:
    given = make(tmp_path / "tokenizer.json")
    theirs = AutoTokenizer.from_pretrained(exported(decoder(GROUPED), tmp_path / "hf", given))
    ours = load_tokenizer(given)
    end = end_of_text_id(ours)
    corpus = encode(TEXTS, ours, token_dtype(VOCABULARY), end)
    for text, ids in zip(TEXTS, corpus, strict=True):
        assert theirs(text)["input_ids"] == ids[:-1].tolist()
        assert theirs.encode(text) == ids[:-1].tolist()
        assert theirs.decode(ids[:-1]) == ours.decode(ids[:-1].tolist(), skip_special_tokens=False)
    assert theirs(list(TEXTS))["input_ids"] == [theirs.encode(text) for text in TEXTS]
    assert set(theirs(TEXTS[0])) == {"input_ids", "attention_mask"}
    assert theirs.eos_token_id == end
    assert theirs.bos_token_id is None
    assert len(theirs) == ours.get_vocab_size()


def test_an_exported_model_generates_and_stops_at_the_end_of_text(
    tmp_path: Path, tokenizer: Path
) -> None:
    model = decoder(GROUPED)
    end = load_tokenizer(tokenizer).token_to_id(END_OF_TEXT)
    folder = exported(model, tmp_path / "hf", tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    words = AutoTokenizer.from_pretrained(folder)
    prompt = words("The same text", return_tensors="pt")
    found = theirs.generate(**prompt, max_new_tokens=12, do_sample=False)[0]
    greedy = prompt["input_ids"]
    with torch.no_grad():
        while greedy.shape[1] < len(found):
            greedy = torch.cat([greedy, model(greedy)[:, -1:].argmax(-1)], dim=1)
    assert found.tolist() == greedy[0].tolist()
    assert theirs.generation_config.eos_token_id == end
    with torch.no_grad():  # a head that can only say the end of text
        theirs.lm_head.weight.zero_()
        theirs.model.norm.weight.fill_(1.0)
        theirs.lm_head.weight[end] = 100 * torch.sign(hidden_of(theirs, prompt["input_ids"]))
    stopped = theirs.generate(**prompt, max_new_tokens=12, do_sample=False)[0]
    assert stopped.tolist() == [*prompt["input_ids"][0].tolist(), end]
    # Nothing before it: a text begins as in training, behind the end of another.
    assert theirs.generate(max_new_tokens=2, do_sample=False)[0, 0].item() == end


def hidden_of(model: LlamaForCausalLM, tokens: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = model.model(tokens).last_hidden_state[0, -1]
    return found


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path, tokenizer: Path) -> None:
    model = decoder(GROUPED)
    folder = tmp_path / "hf"
    with pytest.raises(InvalidRecipe, match=r"gate_up.weight of shape \(160, 48\), but .*162"):
        export_huggingface(
            folder, weights_of(model), replace(GROUPED, ffn_width=81), tokenizer=tokenizer
        )
    with pytest.raises(KeyError):
        export_huggingface(
            folder,
            weights_of(model),
            GROUPED,
            tokenizer=tokenizer,
            number_format="int3",  # type: ignore[arg-type]
        )
    assert not any(tmp_path.iterdir())
    (tmp_path / ".writing-hf").mkdir()  # what a killed export leaves
    (tmp_path / ".writing-hf" / "half").touch()
    exported(model, folder, tokenizer)
    before = {file: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(AlreadyExists, match="hf is there already"):
        exported(model, folder, tokenizer)
    assert {file: file.read_bytes() for file in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_tokenizer_with_more_tokens_than_rows_is_refused(tmp_path: Path, tokenizer: Path) -> None:
    small = decoder(replace(GROUPED, vocabulary=200))
    with pytest.raises(InvalidRecipe, match=r"has \d+ tokens, but the model's vocabulary is 200"):
        exported(small, tmp_path / "hf", tokenizer)
    folder = exported(decoder(GROUPED), tmp_path / "whole", tokenizer)
    bigger = Tokenizer.from_file(str(tokenizer))
    bigger.add_tokens([f"word{i}" for i in range(99)])
    bigger.save(str(folder / "tokenizer.json"))
    with pytest.raises(InvalidRecipe, match="tokens, but the model's vocabulary is 300"):
        import_huggingface(folder)
