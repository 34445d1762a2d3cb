"""Peaks of memory of real updates, each in a process of its own: `python -m tests.training.peaks`.

Prints as JSON, per case, the estimate and the bytes that two updates added to what the process
held before it had a model. MALLOC_MMAP_THRESHOLD_=65536 in the environment has freed arrays given
back at once; without it glibc keeps about 100 MB of them.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mixlab.recipes import Architecture, Recipe
from mixlab.training.decoder import Decoder
from mixlab.training.head import loss_sums
from mixlab.training.memory import needed_memory
from mixlab.training.objective import recompute
from mixlab.training.optimiser import adamw
from mixlab.training.placement import autocast, micro_batch

STATUS = Path("/proc/self/status")
RECIPE = Recipe(
    name="peaks",
    architecture=Architecture(
        layers=4, width=192, heads=6, kv_heads=2, ffn_width=512, vocabulary=2048, context=128,
        tied_head=False,
    ),
    steps=2,
    batch_sequences=8,
    learning_rate=1e-3,
    warmup_steps=0,
    evaluation_steps=(2,),
    evaluation_tokens=128,
    compiled=False,
)  # fmt: skip
WIDE = replace(RECIPE.architecture, layers=1, width=512, heads=8, kv_heads=8, ffn_width=4096)
SMALL = replace(RECIPE.architecture, layers=1, width=32, heads=2, ffn_width=64, vocabulary=64)
CASES: dict[str, tuple[Recipe, int | None]] = {
    "plain": (RECIPE, None),
    "recomputed": (replace(RECIPE, activation_checkpointing=True), None),
    "bfloat16": (replace(RECIPE, precision="bfloat16"), None),
    "three runs": (replace(RECIPE, batch_sequences=3), 3),
    "many weights": (replace(RECIPE, architecture=WIDE, batch_sequences=1), None),
    "small moments": (
        replace(RECIPE, architecture=WIDE, batch_sequences=1, moments="bfloat16"), None,
    ),
}  # fmt: skip


def peak_bytes() -> int:
    """The most that this process was resident with."""
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024


def updates(recipe: Recipe, runs: int | None) -> None:
    model = Decoder(recipe.architecture, runs=runs)
    model.initialise(0 if runs is None else list(range(runs)))
    if recipe.activation_checkpointing:
        recompute(model.blocks)
    optimiser = adamw(model, recipe)
    shape = (runs or 1, recipe.batch_sequences, recipe.architecture.context + 1)
    tokens = torch.randint(recipe.architecture.vocabulary, shape)
    for _ in range(recipe.steps):
        with autocast(torch.device("cpu"), recipe.precision):
            inputs, targets = tokens[..., :-1], tokens[..., 1:].flatten(1)
            features = model.features(inputs if runs else inputs[0])
            flat = features.view(runs or 1, -1, features.shape[-1])
            weight = model.head.weight if runs else model.head.weight[None]
            loss_sums(flat, weight, targets).sum().backward()
        optimiser.step()
        optimiser.zero_grad()


def measured(recipe: Recipe, runs: int | None) -> dict[str, Any]:
    sequences = micro_batch(recipe, torch.device("cpu"))
    estimate = needed_memory(recipe, sequences=sequences, runs=runs or 1).peak
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        updates(replace(recipe, architecture=SMALL, batch_sequences=1), runs)  # loads libraries
        before = peak_bytes()
        updates(recipe, runs)
        os.write(write, json.dumps(peak_bytes() - before).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        found = json.loads(told.read())
    os.waitpid(child, 0)
    return {"estimate": estimate, "measured": found, "sequences": sequences}


if __name__ == "__main__":
    torch.set_num_threads(1)
    json.dump({name: measured(*case) for name, case in CASES.items()}, sys.stdout)
