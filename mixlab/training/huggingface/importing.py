"""Import of a Llama: a folder checked by its headers, weights read one by one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mixlab.corpora.files import read_json
from mixlab.errors import InvalidRecipe, MissingFile, TruncatedFile
from mixlab.recipes import Architecture
from mixlab.training.decoder import Decoder
from mixlab.training.huggingface.exporting import INDEX, TOKENIZER, WHOLE, check_tokenizer
from mixlab.training.huggingface.layout import Sizes, architecture_of, parts_of

READABLE = ("F32", "BF16", "F16")  # number formats of weights, as safetensors names them
# Written by old versions of transformers; computed from the configuration since.
COMPUTED = ".rotary_emb.inv_freq"


@dataclass(frozen=True)
class HuggingFaceModel:
    """A checked folder whose weights are not read yet."""

    folder: Path
    architecture: Architecture
    tokenizer: Path | None  # the folder's tokenizer.json, where it has one
    files: Mapping[str, Path]  # the file of each of their tensors

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Each weight in float32, by the decoder's name; one of them in memory at a time."""
        read = _Reader(self.files)
        for ours, parts in parts_of(self.architecture).items():
            yield ours, torch.cat([read(name).float() for name in parts])

    def decoder(self) -> Decoder:
        """A decoder with these weights, in float32 on the CPU."""
        model = Decoder(self.architecture)
        weights = dict(model.named_parameters())
        with torch.no_grad():
            for name, tensor in self.tensors():
                weights[name].copy_(tensor)
        return model


def import_huggingface(folder: Path) -> HuggingFaceModel:
    """Check a folder of a Llama, without reading its weights yet.

    Raises MissingFile without config.json or safetensors (pickled weights are never read),
    TruncatedFile for files that can't be read, and InvalidRecipe for what the decoder can't
    be: another model type, biases, scaled rotations, tensors missing, left over or of another
    shape, or a tokenizer with more tokens than the embedding.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise MissingFile(f"There is no config.json in {folder}; name a folder of a Llama model.")
    shape = architecture_of(read_json(path))
    files = {
        name: file for name, file in _weight_files(folder).items() if not name.endswith(COMPUTED)
    }
    if shape.tied_head:
        files = _without_tied_copy(files, folder)
    _check_tensors(files, shape, folder)
    tokenizer = folder / TOKENIZER
    if tokenizer.is_file():
        check_tokenizer(tokenizer, shape)
    return HuggingFaceModel(folder, shape, tokenizer if tokenizer.is_file() else None, files)


class _Reader:
    """Tensors by their names, from files that stay open."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.files = files
        self.handles: dict[Path, Any] = {}

    def __call__(self, name: str) -> Tensor:
        """The tensor, from its file."""
        tensor: Tensor = self._handle(name).get_tensor(name)
        return tensor

    def described(self, name: str) -> tuple[Sizes, str]:
        """Its shape and number format, from the file's header."""
        header = self._handle(name).get_slice(name)
        return tuple(header.get_shape()), header.get_dtype()

    def _handle(self, name: str) -> Any:
        file = self.files[name]
        if file not in self.handles:
            self.handles[file] = _opened(file)
        return self.handles[file]


def _opened(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as problem:
        raise TruncatedFile(
            f"{file} can't be read as safetensors ({problem}); fetch it again."
        ) from problem


def _weight_files(folder: Path) -> dict[str, Path]:
    """The file of every tensor."""
    if (folder / INDEX).is_file():
        return _indexed_files(folder)
    whole = folder / WHOLE
    if whole.is_file():
        return dict.fromkeys(_opened(whole).keys(), whole)
    if any(folder.glob("*.bin")):
        raise MissingFile(
            f"{folder} has pickled weights (.bin) only, which run code when they are read; save "
            "it again as safetensors with transformers' save_pretrained."
        )
    raise MissingFile(f"There is no {WHOLE} in {folder}; name a folder with safetensors.")


def _indexed_files(folder: Path) -> dict[str, Path]:
    places = read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(f, str) for f in places.values()):
        raise TruncatedFile(f"{folder / INDEX} names no files of tensors; fetch it again.")
    held: dict[str, set[str]] = {}
    for file in sorted(set(places.values())):
        if Path(file).name != file or not (folder / file).is_file():
            raise MissingFile(f"{folder / INDEX} names {file!r}, which is no file beside it.")
        held[file] = set(_opened(folder / file).keys())
    lost = [name for name, file in places.items() if name not in held[file]]
    if lost:
        raise TruncatedFile(
            f"{folder / places[lost[0]]} lacks {lost[0]}, which the index says it has; fetch it "
            "again."
        )
    return {name: folder / file for name, file in places.items()}


def _without_tied_copy(files: dict[str, Path], folder: Path) -> dict[str, Path]:
    """The files without a head that is stored beside the table that it is tied to."""
    if "lm_head.weight" not in files:
        return files
    read = _Reader(files)
    if not torch.equal(read("lm_head.weight"), read("model.embed_tokens.weight")):
        raise InvalidRecipe(
            f"{folder} ties the head to the embedding, but holds two different tables; set "
            "tie_word_embeddings to false in config.json if both are meant."
        )
    return {name: file for name, file in files.items() if name != "lm_head.weight"}


def _check_tensors(files: Mapping[str, Path], shape: Architecture, folder: Path) -> None:
    """Every tensor that the shape needs, of its size and a float, and no other."""
    wanted = {name: size for part in parts_of(shape).values() for name, size in part.items()}
    missing = sorted(wanted.keys() - files.keys())
    if missing:
        raise InvalidRecipe(
            f"{folder} lacks {len(missing)} tensors, first {missing[0]}; config.json must be the "
            "one of these weights."
        )
    read = _Reader(files)
    for name, size in wanted.items():
        found, number_format = read.described(name)
        if found != size or number_format not in READABLE:
            raise InvalidRecipe(
                f"{files[name]} has {name} of shape {found} in {number_format}, but the decoder "
                f"needs {size} in one of {', '.join(READABLE)}; config.json must be the one of "
                "these weights, and they must not be quantised."
            )
    others = sorted(files.keys() - wanted.keys())
    if others:
        raise InvalidRecipe(
            f"{folder} has {len(others)} tensors that the decoder has no place for, first "
            f"{others[0]}; only plain Llama models can be imported."
        )
