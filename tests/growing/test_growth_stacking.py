"""A grown file is the small model's blocks in the operator's order, and nothing else."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mixlab.errors import InvalidRecipe, MissingFile, TruncatedFile
from mixlab.growing.stacking import Operator, blocks_of, grow
from mixlab.recipes import Architecture
from mixlab.training.decoder import Decoder
from mixlab.training.weights import check_weights, load_weights

SHAPE = Architecture(
    layers=3, width=16, heads=4, kv_heads=2, ffn_width=32, vocabulary=64, context=32,
    tied_head=False,
)  # fmt: skip


def model(shape: Architecture, file: Path | None = None) -> Decoder:
    made = Decoder(shape)
    made.initialise(3)
    if file is not None:
        load_weights(file, made)
    return made


@pytest.fixture
def small(tmp_path: Path) -> Path:
    with torch.no_grad():
        tensors = {name: weight.detach() for name, weight in model(SHAPE).named_parameters()}
        for weight in tensors.values():  # norms that are not all ones
            weight += 0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    run = {"identity": {"recipe": {"architecture": vars(SHAPE)}, "corpus": "c"}, "step": 9}
    save_file(tensors, tmp_path / "small.safetensors", {"run": json.dumps(run)})
    return tmp_path / "small.safetensors"


def logits(shape: Architecture, file: Path) -> torch.Tensor:
    tokens = torch.randint(64, (2, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found: torch.Tensor = model(shape, file)(tokens)
    return found


@pytest.mark.parametrize(
    ("operator", "blocks"),
    [("stack", [0, 1, 2, 0, 1, 2]), ("interleave", [0, 0, 1, 1, 2, 2]), ("zero", [0, 1, 2] * 2)],
)
def test_blocks_repeat_in_the_operators_order(
    tmp_path: Path, small: Path, operator: Operator, blocks: list[int]
) -> None:
    """Against the published script's way: all tensors in memory, cloned to their new numbers."""
    old, new = load_file(small), load_file(grow(small, tmp_path / "large", 2, operator))
    for name in ("embedding.weight", "norm.weight", "head.weight"):
        assert torch.equal(new.pop(name), old[name])
    parts = [name.removeprefix("blocks.0.") for name in old if name.startswith("blocks.0.")]
    for block, of in enumerate(blocks):
        for part in parts:
            expected = old[f"blocks.{of}.{part}"]
            if operator == "zero" and block > 2 and part.endswith(("output.weight", "down.weight")):
                expected = torch.zeros_like(expected)
            assert torch.equal(new.pop(f"blocks.{block}.{part}"), expected)
    assert not new
    assert blocks_of(3, 2, operator) == blocks


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_grown_file_holds_a_model_of_its_shape_and_says_what_it_came_from(
    tmp_path: Path, small: Path, factor: int
) -> None:
    deep = replace(SHAPE, layers=3 * factor)
    file = grow(small, tmp_path / "new" / "large.safetensors", factor)
    check_weights(file, deep)
    with safe_open(file, framework="pt") as handle:
        told = json.loads(handle.metadata()["run"])
    assert Architecture(**told["architecture"]) == deep
    assert told["grown_from"]["factor"] == factor
    assert len(told["grown_from"]["sha256"]) == 64
    assert grow(small, tmp_path / "again", factor).read_bytes() == file.read_bytes()
    assert [one.name for one in file.parent.iterdir()] == [file.name]


def test_only_zero_keeps_the_function(tmp_path: Path, small: Path) -> None:
    before = logits(SHAPE, small)
    deep = replace(SHAPE, layers=12)
    assert torch.equal(logits(deep, grow(small, tmp_path / "zero", 4, "zero")), before)
    for operator in ("stack", "interleave"):
        assert not torch.allclose(
            logits(deep, grow(small, tmp_path / operator, 4, operator)), before
        )


def test_a_tied_head_and_other_formats_are_grown_as_they_are(tmp_path: Path) -> None:
    made = model(replace(SHAPE, tied_head=True))
    tensors = {name: weight.detach().bfloat16() for name, weight in made.named_parameters()}
    save_file(tensors, tmp_path / "half.safetensors")
    found = load_file(grow(tmp_path / "half.safetensors", tmp_path / "large", 2))
    assert "head.weight" not in found
    assert {weight.dtype for weight in found.values()} == {torch.bfloat16}
    assert torch.equal(found["blocks.4.ffn_norm.weight"], tensors["blocks.1.ffn_norm.weight"])


def test_what_cannot_be_grown_is_refused_and_nothing_is_left(tmp_path: Path, small: Path) -> None:
    out = tmp_path / "out" / "large.safetensors"
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(small.read_bytes()[:-4])
    tensors = load_file(small)
    gap = tmp_path / "gap.safetensors"
    save_file({name: own for name, own in tensors.items() if "blocks.1." not in name}, gap)
    lame = tmp_path / "lame.safetensors"
    save_file({n: own for n, own in tensors.items() if n != "blocks.1.ffn.down.weight"}, lame)
    noted = {note: tmp_path / f"note-{note}.safetensors" for note in ("{", "[]")}
    for note, file in noted.items():
        save_file(tensors, file, {"run": note})
    for given, factor, operator, kind, told in (
        *((file, 2, "stack", TruncatedFile, "damaged note of its run") for file in noted.values()),
        (small, 1, "stack", InvalidRecipe, "at least 2, not 1"),
        (small, 2, "split", InvalidRecipe, "stack, interleave, zero, not by 'split'"),
        (tmp_path / "none", 2, "stack", MissingFile, "train the small model first"),
        (damaged, 2, "stack", TruncatedFile, "can't be read"),
        (gap, 2, "stack", InvalidRecipe, r"the blocks \[0, 2\]"),
        (lame, 2, "stack", InvalidRecipe, "all alike"),
    ):
        with pytest.raises(kind, match=told):
            grow(given, out, factor, operator)  # type: ignore[arg-type]
    assert not out.exists()
    with pytest.raises(InvalidRecipe, match="into itself"):
        grow(small, small, 2)
