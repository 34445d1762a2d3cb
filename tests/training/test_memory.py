"""What training needs: estimates against measured peaks, and how they move with the recipe."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlab.errors import NotEnoughMemory
from mixlab.recipes import RECIPES, recipe, tinyllama_1b
from mixlab.training.memory import check_memory, fitting, needed_memory
from mixlab.training.placement import micro_batch

ROOT = Path(__file__).parents[2]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are read from /proc")
def test_estimates_are_near_measured_peaks() -> None:
    """Kept arrays are counted to the byte; the tenths above are temporary ones."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.peaks"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        check=True,
    )
    for name, found in json.loads(done.stdout).items():
        assert 0.95 < found["measured"] / found["estimate"] < 1.25, (name, found)


def test_the_states_of_tinyllama_are_16_bytes_a_parameter_or_12() -> None:
    whole = replace(tinyllama_1b(), precision="float32")
    memory = needed_memory(whole, sequences=1, device=CPU)
    assert memory.states == 16 * 1_100_048_384
    small = needed_memory(replace(whole, moments="bfloat16"), sequences=1, device=CPU)
    assert small.states == 12 * 1_100_048_384


def test_tinyllama_fits_the_gpus_that_it_was_trained_on() -> None:
    """A100-40G, sequences of 2048, 8 at a time, sharded over 16 (arXiv 2401.02385)."""
    alone = needed_memory(tinyllama_1b(), sequences=8, device=CUDA).peak
    shared = needed_memory(tinyllama_1b(), sequences=8, ranks=16, sharded=True, device=CUDA).peak
    assert shared < 40e9 < alone


@given(
    name=st.sampled_from(sorted(RECIPES)),
    sequences=st.integers(1, 64),
    runs=st.integers(1, 9),
    ranks=st.integers(1, 16),
    compiled=st.booleans(),
    device=st.sampled_from([CPU, CUDA]),
)
@settings(max_examples=60, deadline=None)
def test_every_saving_saves(
    name: str, sequences: int, runs: int, ranks: int, compiled: bool, device: torch.device
) -> None:
    one = replace(recipe(name), compiled=compiled, moments="float32")
    needed = needed_memory(one, sequences=sequences, runs=runs, ranks=ranks, device=device).peak
    params = one.architecture.parameters
    assert needed >= 16 * runs * params - 4 * runs * params  # gradients come later or not at all

    small = replace(one, moments="bfloat16")
    found = needed_memory(small, sequences=sequences, runs=runs, ranks=ranks, device=device).peak
    assert needed - found == 4 * runs * params

    again = replace(one, activation_checkpointing=True)
    assert (
        needed
        >= needed_memory(again, sequences=sequences, runs=runs, ranks=ranks, device=device).peak
    )
    assert (
        needed
        >= needed_memory(
            replace(one, compiled=True), sequences=sequences, runs=runs, ranks=ranks, device=device
        ).peak
    )


def test_runs_multiply_and_shards_divide() -> None:
    one = replace(recipe("proxy_tiny"), batch_sequences=4)
    first = needed_memory(one, sequences=4, device=CPU)
    stacked = needed_memory(one, sequences=4, runs=8, device=CPU)
    for part in ("weights", "moments", "gradients", "kept"):
        assert getattr(stacked, part) == 8 * getattr(first, part)
    shards = needed_memory(tinyllama_1b(), sequences=8, ranks=8, sharded=True, device=CUDA)
    whole = needed_memory(tinyllama_1b(), sequences=8, device=CUDA)
    assert shards.moments == whole.moments // 8
    assert shards.kept == whole.kept
    assert shards.weights < whole.weights / 2


def test_a_recipe_that_no_machine_holds_is_refused_with_what_it_needs() -> None:
    huge = replace(
        tinyllama_1b(), architecture=replace(tinyllama_1b().architecture, layers=100_000)
    )
    with pytest.raises(NotEnoughMemory, match=r"needs at least [\d.]+ GB of .* are free; take a"):
        check_memory(huge)


def test_micro_batches_shrink_to_what_a_device_has_room_for() -> None:
    """TinyLlama took 8 sequences at a time on its 16 A100 of 40 GB (`pretrain/tinyllama.py`)."""
    recipe = tinyllama_1b()

    def found(gigabytes: int, *, ranks: int = 1) -> int:
        usual = micro_batch(recipe, CUDA, ranks=ranks)
        fits = fitting(recipe, gigabytes << 30, usual, ranks=ranks, sharded=ranks > 1, device=CUDA)
        return micro_batch(recipe, CUDA, ranks=ranks, at_most=fits)

    assert found(40, ranks=16) == 8
    assert [found(gigabytes) for gigabytes in (139, 80, 40, 24)] == [16, 8, 4, 1]
