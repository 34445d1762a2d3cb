"""Small models of several shapes and a tokenizer, for tests of the Hugging Face folders."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mixlab.corpora.tokenizer import END_OF_TEXT, train_tokenizer
from mixlab.recipes import Architecture
from mixlab.training.decoder import Decoder
from mixlab.training.huggingface import export_huggingface

VOCABULARY = 300
GROUPED = Architecture(
    layers=2, width=48, heads=6, kv_heads=2, ffn_width=80, vocabulary=VOCABULARY, context=40,
    tied_head=False,
)  # fmt: skip
SHAPES = {
    "grouped": GROUPED,
    "tied": replace(GROUPED, tied_head=True),
    "a key head for each": replace(GROUPED, kv_heads=6),
    "one key head, deep and narrow": replace(
        GROUPED, layers=5, width=24, heads=2, kv_heads=1, ffn_width=30
    ),
    "another rotation and epsilon": replace(GROUPED, rope_theta=500.0, norm_epsilon=1e-3),
    "wide": replace(GROUPED, width=256, heads=4, kv_heads=4, ffn_width=700, context=160),
}
TEXTS = (
    "The same text, twice: the same text.",
    "  spaces\n\n\tand lines  ",
    "\u00e9\u4e16\U0001f600 \x00 1234567",
    f"text that spells {END_OF_TEXT} out, and <s> and </s> too",
    "",
)


def write_tokenizer(folder: Path) -> Path:
    path = folder / "tokenizer.json"
    train_tokenizer({"text": TEXTS}, vocabulary=VOCABULARY).save(str(path))
    return path


def decoder(shape: Architecture, seed: int = 0) -> Decoder:
    model = Decoder(shape)
    model.initialise(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:  # norms that are not 1, so that a lost gain would show
                weight.copy_(torch.linspace(0.5, 1.5, len(weight)))
    return model


def weights_of(model: Decoder) -> dict[str, torch.Tensor]:
    return {name: weight.detach() for name, weight in model.named_parameters()}


def exported(model: Decoder, folder: Path, tokenizer: Path, **options: Any) -> Path:
    export_huggingface(folder, weights_of(model), model.shape, tokenizer=tokenizer, **options)
    return folder


def some_tokens(shape: Architecture, sequences: int = 3) -> torch.Tensor:
    chance = torch.Generator().manual_seed(1)
    return torch.randint(shape.vocabulary, (sequences, shape.context), generator=chance)


def llama(shape: Architecture, **more: Any) -> LlamaForCausalLM:
    """A model that transformers made, with weights large enough that logits are of size 1."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.ffn_width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.context,
        tie_word_embeddings=shape.tied_head,
        rms_norm_eps=shape.norm_epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        initializer_range=0.1,
        **more,
    )
    return LlamaForCausalLM(config).eval()
