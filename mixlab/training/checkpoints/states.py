"""A run's tensors by name, and how many ranks write and read them as one table.

    model.<name>                  the weight
    optimiser.<name>.<moment>     AdamW's state of it, its count of steps included
    random.cpu, random.cuda       the states of torch's generators

Names are the decoder's, whatever wraps it, so that a checkpoint doesn't know how many ranks
wrote it, nor whether they replicated or sharded. torch's distributed checkpoint (DCP) does the
sharing: every rank writes its parts into safetensors files that say where each part belongs,
and reads what it needs of any of them. Source: torch.distributed.checkpoint, hf_storage.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixlab.training.parallel import World

# What DCP holds in memory at once beside the tensors: a file is put together before it's written.
FILE_BYTES = 512 << 20
WRAPPERS = ("module", "_orig_mod", "_checkpoint_wrapped_module", "decoder")


def named_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """The weights by the decoder's names, a tied one once; DTensors where they are sharded."""
    for part in module.modules():
        # An evaluation leaves FSDP's root gathered, with other parameters than the optimiser's.
        reshard = getattr(part, "reshard", None)
        if reshard is not None:
            reshard()
    return {_plain(name): weight for name, weight in module.named_parameters()}


def tensors_of(
    module: nn.Module, optimiser: torch.optim.Optimizer, device: torch.device
) -> dict[str, Tensor]:
    """Everything that a checkpoint holds, as it is now; not copied."""
    tensors: dict[str, Tensor] = {}
    for name, weight in named_weights(module).items():
        tensors[f"model.{name}"] = weight.detach()
        for moment, value in optimiser.state.get(weight, {}).items():
            tensors[f"optimiser.{name}.{moment}"] = value
    tensors["random.cpu"] = torch.get_rng_state()
    if device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(device)
    return tensors


def write_tensors(folder: Path, tensors: dict[str, Tensor], world: World) -> None:
    """Write this rank's part of them to the folder, with all other ranks, and sync it to disk.

    What one rank raises, all raise.
    """
    # Imported at the first checkpoint: it takes a second.
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    writer = HuggingFaceStorageWriter(
        str(folder), _file_numbers(tensors, world.size), save_distributed=True
    )
    with _first_error():
        save(tensors, storage_writer=writer, process_group=world.files, no_dist=world.files is None)


def read_tensors(
    folder: Path, module: nn.Module, optimiser: torch.optim.Optimizer | None, world: World
) -> None:
    """Fill weights, AdamW's state and random states from a folder that `write_tensors` wrote.

    Without an optimiser only the weights are read.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    weights = named_weights(module)
    wanted = {f"model.{name}": weight.detach() for name, weight in weights.items()}
    if optimiser is not None:
        stored: dict[str, Any] = dict(
            HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
        )
        wanted |= _empty_states(optimiser, weights, stored)
        wanted |= {name: torch.empty(stored[name].size, dtype=torch.uint8)
                   for name in _random_states(stored, world.device)}  # fmt: skip
    with _first_error():
        load(
            wanted,
            storage_reader=HuggingFaceStorageReader(str(folder)),
            process_group=world.files,
            no_dist=world.files is None,
        )
    if optimiser is not None:
        torch.set_rng_state(wanted["random.cpu"])
        if "random.cuda" in wanted:
            torch.cuda.set_rng_state(wanted["random.cuda"], world.device)


def _empty_states(
    optimiser: torch.optim.Optimizer, weights: dict[str, nn.Parameter], stored: dict[str, Any]
) -> dict[str, Tensor]:
    """Room for the stored state of every weight, put into the optimiser."""
    groups = {weight: group for group in optimiser.param_groups for weight in group["params"]}
    room: dict[str, Tensor] = {}
    for name, weight in weights.items():
        prefix = f"optimiser.{name}."
        state = {
            key.removeprefix(prefix): _like(weight, groups[weight], told)
            for key, told in stored.items()
            if key.startswith(prefix)
        }
        optimiser.state[weight] = state
        room |= {prefix + moment: value for moment, value in state.items()}
    return room


def _like(weight: Tensor, group: dict[str, Any], told: Any) -> Tensor:
    dtype = told.properties.dtype
    if told.size == weight.shape:
        return torch.zeros_like(weight, dtype=dtype, requires_grad=False)
    # A count of steps: on the weight's device only where the kernel reads it there.
    near = group.get("fused") or group.get("capturable")
    return torch.zeros(told.size, dtype=dtype, device=weight.device if near else "cpu")


def _random_states(stored: dict[str, Any], device: torch.device) -> list[str]:
    wanted = ["random.cpu", *(["random.cuda"] if device.type == "cuda" else [])]
    return [name for name in wanted if name in stored]


def _file_numbers(tensors: dict[str, Tensor], ranks: int) -> dict[str, int]:
    """The number, from 1, of the file of each tensor, so that no rank's file is large."""
    numbers, before = {}, 0
    for name, tensor in tensors.items():
        numbers[name] = 1 + before // (FILE_BYTES * ranks)
        before += tensor.numel() * tensor.element_size()
    return numbers


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


@contextmanager
def _first_error() -> Iterator[None]:
    """The error of the first rank that had one, where DCP gathers them all into one of its own."""
    from torch.distributed.checkpoint.api import CheckpointException

    # One process without a group is what it warns of, and what most runs are.
    warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
    try:
        yield
    except CheckpointException as problem:
        raise next(iter(problem.failures.values()))[0] from None
