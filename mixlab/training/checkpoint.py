"""Checkpoints: one safetensors file that holds weights, AdamW's state and the run's record.

    <folder>/checkpoint.safetensors   tensors "model.<name>", "optimiser.<name>.<moment>";
                                      metadata "run" is JSON: identity, step, observations, ...
    <folder>/weights.safetensors      the final weights; metadata "run" names recipe and mixture

One file, renamed into place, so a killed run leaves the old checkpoint or the new one, whole.
No pickle, so reading one runs no code. A tied head is not stored twice.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mixlab.corpora.shards import write_atomically
from mixlab.errors import InvalidRecipe, TruncatedFile

CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "weights.safetensors"


def save_weights(folder: Path, model: nn.Module, run: dict[str, Any]) -> Path:
    """Write the model's parameters to `weights.safetensors`, and say where."""
    tensors = {name: weight.detach().cpu() for name, weight in model.named_parameters()}
    return _write(folder / WEIGHTS, tensors, run)


def load_weights(file: Path, model: nn.Module) -> None:
    """Fill a model of the same shape from `weights.safetensors`."""
    _, tensors = _read(file)
    _copy_into(model, tensors)


def save_checkpoint(
    folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer, run: dict[str, Any]
) -> Path:
    """Write everything that `load_checkpoint` needs, atomically."""
    tensors = {f"model.{name}": weight for name, weight in model.named_parameters()}
    for name, weight in model.named_parameters():
        for moment, value in optimiser.state[weight].items():
            tensors[f"optimiser.{name}.{moment}"] = value
    cpu = {name: value.detach().cpu() for name, value in tensors.items()}
    return _write(folder / CHECKPOINT, cpu, run)


def load_checkpoint(
    folder: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    *,
    identity: dict[str, Any],
) -> dict[str, Any] | None:
    """Restore model and optimiser, and return the run's record; None where there is none yet.

    Raises InvalidRecipe where the checkpoint is of another run, TruncatedFile where it is
    damaged.
    """
    file = folder / CHECKPOINT
    if not file.is_file():
        return None
    run, tensors = _read(file)
    _check_identity(file, run["identity"], identity)
    _copy_into(model, _below("model.", tensors))
    for name, weight in model.named_parameters():
        state = _below(f"optimiser.{name}.", tensors)
        # AdamW keeps its count of steps in a tensor on the device of the weight.
        optimiser.state[weight] = {
            moment: value.to(weight.device).clone() for moment, value in state.items()
        }
    return run


def _check_identity(file: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    expected = json.loads(json.dumps(wanted))
    other = [key for key in expected if found.get(key) != expected[key]]
    if other:
        raise InvalidRecipe(
            f"{file} is the checkpoint of a run with another {' and '.join(other)}; give each "
            "run a folder of its own, or delete the file."
        )


def _copy_into(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(tensors[name])


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _write(file: Path, tensors: dict[str, Tensor], run: dict[str, Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"run": json.dumps(run)}
    write_atomically(file, lambda path: save_file(tensors, path, metadata))
    return file


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(file, framework="pt") as handle:
            run = json.loads(handle.metadata()["run"])
            return run, {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError) as problem:
        raise TruncatedFile(
            f"{file} can't be read ({problem}); delete it to start over."
        ) from problem
