"""Costs of a shape: measured whole where that is quick, else from parts of it, and told which."""

from dataclasses import replace

import pytest
import torch

from mixlab.recipes import Architecture
from mixlab.training import costing
from mixlab.training.costing import least_memory, measure_speed

CPU = torch.device("cpu")
SMALL = Architecture(
    layers=6, width=64, heads=2, kv_heads=2, ffn_width=160, vocabulary=256, context=128,
    tied_head=False,
)  # fmt: skip


def test_memory_is_more_than_weights_gradients_and_moments() -> None:
    assert 16 * SMALL.parameters < least_memory(SMALL, CPU) < 100 * SMALL.parameters


def test_a_shape_is_timed_whole_where_that_is_quick() -> None:
    found = measure_speed(SMALL, CPU, seconds=0.1)
    assert "layers" not in found.how
    assert found.tokens_per_second is not None
    assert found.tokens_per_second > 0


def test_one_and_two_layers_tell_what_all_of_them_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(costing.MOST_FLOPS, "cpu", SMALL.flops_per_token() * SMALL.context / 2)
    # A clock of its own, as timings of a busy machine are no truth.
    monkeypatch.setattr(costing, "_token_seconds", lambda shape, *_: 0.01 + 0.002 * shape.layers)
    found = measure_speed(SMALL, CPU)
    assert found.tokens_per_second == pytest.approx(1 / (0.01 + 0.002 * 6))
    assert "1 and 2 of 6 layers" in found.how
    monkeypatch.setattr(costing, "_token_seconds", lambda *_: 0.01)
    assert "scaled by FLOPs" in measure_speed(SMALL, CPU).how


def test_shorter_sequences_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(costing.MOST_FLOPS, "cpu", 1e9)
    found = measure_speed(replace(SMALL, context=4096), CPU, seconds=0.1)
    assert found.how.startswith("on ")
    assert "tokens of 4096" in found.how


def test_what_no_machine_holds_is_told_and_not_tried() -> None:
    huge = replace(SMALL, width=1 << 16, heads=512, kv_heads=512, ffn_width=1 << 19)
    found = measure_speed(huge, CPU)
    assert found.tokens_per_second is None
    assert "2 layers alone need" in found.how
