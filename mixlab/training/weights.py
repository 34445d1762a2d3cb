"""The final weights of a run: one safetensors file, whole however many ranks made it.

<folder>/weights.safetensors   tensors by the decoder's names; a tied head is not stored
                               twice; metadata "run" is JSON: identity, step, observations
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mixlab.corpora.files import write_atomically
from mixlab.errors import InvalidRecipe, MissingFile, NotWritten, TruncatedFile
from mixlab.recipes import Architecture
from mixlab.recipes.noted import NOTE
from mixlab.training.checkpoints.states import named_weights
from mixlab.training.decoder import Decoder
from mixlab.training.parallel import World, whole

WEIGHTS = "weights.safetensors"


def save_weights(folder: Path, module: nn.Module, run: dict[str, Any], world: World) -> Path:
    """Write the weights, and say where; every rank takes part, the first one writes.

    Raises NotWritten, on every rank, where the disk doesn't take them.
    """
    tensors = {}
    for name, weight in named_weights(module).items():
        full = whole(weight.detach()).cpu()
        if world.main:
            tensors[name] = full
    file = folder / WEIGHTS
    world.together(lambda: _write(file, tensors, run) if world.main else None)
    return file


def keep_weights(folder: Path, module: nn.Module, run: dict[str, Any], world: World) -> None:
    """Write the weights again where somebody took them away."""
    if world.any(world.main and not (folder / WEIGHTS).is_file()):
        save_weights(folder, module, run, world)


def load_weights(file: Path, module: nn.Module) -> None:
    """Fill a model of the same shape, held by one process, from `weights.safetensors`.

    Raises TruncatedFile for a file that can't be read.
    """
    try:
        with safe_open(file, framework="pt") as handle, torch.no_grad():
            for name, weight in named_weights(module).items():
                weight.copy_(handle.get_tensor(name))
    except (SafetensorError, OSError) as problem:
        raise TruncatedFile(
            f"{file} can't be read ({problem}); delete it, and train again."
        ) from problem


def check_weights(file: Path, shape: Architecture) -> None:
    """Look whether a file holds the weights of a model of that shape, without reading them.

    Raises MissingFile, TruncatedFile for a file that can't be read, and InvalidRecipe for one of
    another shape, by the first weight that differs.
    """
    if not file.is_file():
        raise MissingFile(f"There are no weights {file} to begin with.")
    try:
        with safe_open(file, framework="pt") as handle:
            found = {name: handle.get_slice(name).get_shape() for name in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as problem:
        raise TruncatedFile(f"{file} can't be read ({problem}); make it again.") from problem
    with torch.device("meta"):
        expected = {name: list(own.shape) for name, own in named_weights(Decoder(shape)).items()}
    for name in sorted({*found, *expected}):
        has, needs = found.get(name, "no such weight"), expected.get(name, "no such weight")
        if has != needs:
            raise InvalidRecipe(
                f"{file} is of another shape than the recipe: {name} is {has} in the file and "
                f"{needs} in the recipe; take a recipe of the file's shape."
            )


def rows_in(file: Path) -> int | None:
    """Rows of a file's embedding; None where it has none, or can't be read."""
    try:
        with safe_open(file, framework="pt") as handle:
            return int(handle.get_slice("embedding.weight").get_shape()[0])
    except (SafetensorError, OSError):
        return None


def _write(file: Path, tensors: dict[str, Tensor], run: dict[str, Any]) -> None:
    metadata = {NOTE: json.dumps(run)}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda path: save_file(tensors, path, metadata))
    except (SafetensorError, OSError) as problem:
        raise NotWritten(
            f"{file} couldn't be written ({problem}); make room, and start the run again."
        ) from problem
