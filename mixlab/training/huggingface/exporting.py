"""Export of a decoder: safetensors, configuration and tokenizer in one new folder."""

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from mixlab.corpora.files import read_json, write_folder, write_json
from mixlab.corpora.tokenizer import end_of_text_id, load_tokenizer, vocabulary_of
from mixlab.errors import InvalidRecipe
from mixlab.recipes import Architecture
from mixlab.training.huggingface.layout import config_of, parts_of

Format = Literal["float32", "bfloat16"]

FORMATS: dict[Format, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SHARD_BYTES = 5_000_000_000
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"


def export_huggingface(
    folder: Path,
    weights: Mapping[str, Tensor],
    shape: Architecture,
    *,
    tokenizer: Path,
    number_format: Format = "float32",
    shard_bytes: int = SHARD_BYTES,
) -> list[Path]:
    """Write the model and its tokenizer to a new folder, and say which files it has.

    `weights` by the decoder's names (of `named_parameters`), `tokenizer` the corpus's
    tokenizer.json. The folder is written aside and renamed, so it is there whole or not.

    Raises AlreadyExists for a folder that holds something, InvalidRecipe for weights of
    another shape or a tokenizer with more tokens than the model, and what `load_tokenizer`
    raises.
    """
    _check_weights(weights, shape)
    check_tokenizer(tokenizer, shape)
    end = end_of_text_id(load_tokenizer(tokenizer))

    def write(aside: Path) -> None:
        _write_weights(aside, weights, shape, FORMATS[number_format], shard_bytes)
        write_json(aside / "config.json", config_of(shape, number_format=number_format, end=end))
        write_json(aside / "generation_config.json", _generation(end))
        _write_tokenizer(aside, tokenizer, shape.context)

    write_folder(folder, write)
    return sorted(folder.iterdir())


def _check_weights(weights: Mapping[str, Tensor], shape: Architecture) -> None:
    for name, parts in parts_of(shape).items():
        sizes = list(parts.values())
        wanted = (sum(size[0] for size in sizes), *sizes[0][1:])
        found = tuple(weights[name].shape) if name in weights else None
        if found != wanted:
            raise InvalidRecipe(
                f"The weights have {name} of shape {found}, but the architecture says {wanted}; "
                "give the recipe that they were trained with."
            )


def check_tokenizer(tokenizer: Path, shape: Architecture) -> None:
    """Raise InvalidRecipe where the model has no row for some token."""
    tokens = vocabulary_of(load_tokenizer(tokenizer))
    if tokens > shape.vocabulary:
        raise InvalidRecipe(
            f"{tokenizer} has {tokens} tokens, but the model's vocabulary is {shape.vocabulary}; "
            "give the tokenizer of the corpus that it was trained on."
        )


def _write_weights(
    folder: Path,
    weights: Mapping[str, Tensor],
    shape: Architecture,
    dtype: torch.dtype,
    shard_bytes: int,
) -> None:
    """One file, or numbered ones and their index; one of them in memory at a time."""
    tensors = dict(chain.from_iterable(_split(weights, shape)))
    shards = _shards(tensors, dtype.itemsize, shard_bytes)
    names = [WHOLE]
    if len(shards) > 1:
        count = len(shards)
        names = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
        total = dtype.itemsize * sum(tensor.numel() for tensor in tensors.values())
        places = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})
    for file, shard in zip(names, shards, strict=True):
        held = {name: tensors[name].detach().to("cpu", dtype).contiguous() for name in shard}
        save_file(held, folder / file, {"format": "pt"})


def _split(
    weights: Mapping[str, Tensor], shape: Architecture
) -> Iterator[Iterator[tuple[str, Tensor]]]:
    """Their names with views of our tensors' rows."""
    for name, parts in parts_of(shape).items():
        rows = [size[0] for size in parts.values()]
        yield zip(parts, torch.split(weights[name], rows), strict=True)


def _shards(tensors: Mapping[str, Tensor], item_bytes: int, limit: int) -> list[list[str]]:
    """Names in order, cut before the tensor that would pass the limit."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        own = item_bytes * tensor.numel()
        if shards[-1] and size + own > limit:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += own
    return shards


def _generation(end: int) -> dict[str, Any]:
    # In training each document stands behind the end of another, so text begins there too.
    return {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}


def _write_tokenizer(folder: Path, tokenizer: Path, context: int) -> None:
    """The tokenizer without what corpora don't use, and the settings that say so."""
    loaded = load_tokenizer(tokenizer)
    value = read_json(tokenizer)
    write_json(
        folder / TOKENIZER, value | {"truncation": None, "padding": None, "post_processor": None}
    )
    # No padding token: were it the end of text, fine-tuning would mask that out of its targets,
    # and models would not learn to stop.
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": loaded.id_to_token(end_of_text_id(loaded)),
        "add_bos_token": False,
        "add_eos_token": False,
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        # A Llama takes no token_type_ids, which transformers 4 would give it too.
        "model_input_names": ["input_ids", "attention_mask"],
    }
    write_json(folder / "tokenizer_config.json", settings)
