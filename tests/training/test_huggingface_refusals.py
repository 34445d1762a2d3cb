"""What import refuses: other models, odd tensors, damaged and pickled files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mixlab.errors import InvalidRecipe, MissingFile, TruncatedFile
from mixlab.training.huggingface import import_huggingface
from tests.training.llamas import GROUPED, decoder, exported, write_tokenizer

Change = Callable[[dict[str, Any]], Any]
REFUSED_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "another model": ({"model_type": "qwen2"}, "model_type 'qwen2', but the decoder has 'llama'"),
    "another gate": ({"hidden_act": "gelu"}, "hidden_act 'gelu', but the decoder has 'silu'"),
    "attention biases": ({"attention_bias": True}, "attention_bias True"),
    "feed-forward biases": ({"mlp_bias": True}, "mlp_bias True"),
    "quantised": ({"quantization_config": {"bits": 4}}, "quantization_config"),
    "old scaled rotations": (
        {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}},
        "rotations of type 'linear'",
    ),
    "new scaled rotations": (
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "type 'llama3'",
    ),
    "part of a head": (
        {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "over 0.5 of",
    ),
    "a free head size": ({"head_dim": 16}, "head_dim 16, but hidden_size"),
    "no layers": ({"num_hidden_layers": 0}, "num_hidden_layers 0; it must be a whole number"),
    "a word for a number": ({"vocab_size": "many"}, "vocab_size 'many'"),
    "no width": ({"hidden_size": None}, "hidden_size None"),
    "uneven heads": ({"num_key_value_heads": 4}, "6 heads can't share 4"),
    "a negative epsilon": ({"rms_norm_eps": -1.0}, "rms_norm_eps -1.0; it must be a positive"),
    "more layers than there are": ({"num_hidden_layers": 3}, "lacks 9 tensors, first model"),
    "fewer layers than there are": ({"num_hidden_layers": 1}, "has 9 tensors that the decoder has"),
    "another vocabulary": (
        {"vocab_size": 301}, r"model.embed_tokens.weight of shape \(300, 48\) in F32, but .*301",
    ),
    "a tied head that is not": ({"tie_word_embeddings": True}, "holds two different tables"),
}  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    return exported(decoder(GROUPED), folder / "hf", write_tokenizer(folder))


@pytest.mark.parametrize("name", REFUSED_CONFIGS)
def test_a_configuration_that_the_decoder_cannot_be_is_refused(
    name: str, plain: Path, tmp_path: Path
) -> None:
    changes, message = REFUSED_CONFIGS[name]
    config = json.loads((plain / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    (tmp_path / "model.safetensors").symlink_to(plain / "model.safetensors")
    with pytest.raises(InvalidRecipe, match=message):
        import_huggingface(tmp_path)


def copied(plain: Path, folder: Path, change: Change) -> Path:
    tensors = load_file(plain / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_bytes((plain / "config.json").read_bytes())
    return folder


def test_tensors_that_are_missing_odd_or_left_over_are_refused(plain: Path, tmp_path: Path) -> None:
    q = "model.layers.1.self_attn.q_proj"
    changes: dict[str, Change] = {
        f"lacks 1 tensors, first {q}.weight": lambda held: held.pop(f"{q}.weight"),
        f"no place for, first {q}.bias": lambda held: held.update({f"{q}.bias": torch.ones(48)}),
        r"of shape \(48, 47\) in F32": lambda held: held.update(
            {f"{q}.weight": held[f"{q}.weight"][:, 1:].contiguous()}
        ),
        "in I8": lambda held: held.update({f"{q}.weight": held[f"{q}.weight"].to(torch.int8)}),
    }
    for number, (message, change) in enumerate(changes.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(InvalidRecipe, match=message):
            import_huggingface(copied(plain, folder, change))


def test_what_old_files_hold_twice_is_left_out(plain: Path, tmp_path: Path) -> None:
    rates = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(2)}
    found = import_huggingface(copied(plain, tmp_path, lambda held: held.update(rates)))
    assert found.architecture == GROUPED


def test_damaged_pickled_and_absent_files_are_refused(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"no config\.json"):
        import_huggingface(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(TruncatedFile, match=r"config.json can't be read"):
        import_huggingface(tmp_path)
    (tmp_path / "config.json").write_bytes((plain / "config.json").read_bytes())
    with pytest.raises(MissingFile, match=r"no model\.safetensors"):
        import_huggingface(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(MissingFile, match="pickled weights"):
        import_huggingface(tmp_path)
    whole = (plain / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TruncatedFile, match="can't be read as safetensors"):
        import_huggingface(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "../hf/model.safetensors"}}))
    with pytest.raises(MissingFile, match="no file beside it"):
        import_huggingface(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(whole)
    index.write_text(json.dumps({"weight_map": {"lm_tail.weight": "model.safetensors"}}))
    with pytest.raises(TruncatedFile, match=r"lacks lm_tail\.weight"):
        import_huggingface(tmp_path)
