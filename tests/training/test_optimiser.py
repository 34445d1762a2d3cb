"""Learning rates by step, and which weights decay."""

from dataclasses import replace

import pytest

from mixlab.recipes import Recipe, proxy_tiny, tinyllama_1b
from mixlab.training.decoder import Decoder
from mixlab.training.optimiser import adamw, learning_rate


def cosine() -> Recipe:
    return replace(
        proxy_tiny(), steps=110, warmup_steps=10, learning_rate=1.0, final_learning_rate=0.1,
        schedule="cosine", evaluation_steps=(110,),
    )  # fmt: skip


def test_warm_up_is_linear_and_then_the_rate_stays() -> None:
    recipe = replace(proxy_tiny(), learning_rate=1.0, warmup_steps=10)
    assert [learning_rate(recipe, step) for step in (1, 5, 10, 11, 100)] == [0.1, 0.5, 1, 1, 1]


def test_without_warm_up_the_first_step_has_the_full_rate() -> None:
    assert learning_rate(replace(proxy_tiny(), learning_rate=1.0, warmup_steps=0), 1) == 1.0


def test_cosine_falls_to_its_end_and_not_to_the_peak() -> None:
    rates = [learning_rate(cosine(), step) for step in (10, 60, 110)]
    assert rates == pytest.approx([1.0, 0.55, 0.1])
    assert learning_rate(tinyllama_1b(), 1_430_512) == pytest.approx(4e-5)


def test_matrices_decay_and_norms_do_not() -> None:
    model = Decoder(proxy_tiny().architecture)
    decaying, kept = adamw(model, proxy_tiny()).param_groups
    assert decaying["weight_decay"] == 0.1
    assert kept["weight_decay"] == 0.0
    assert len(kept["params"]) == 2 * 2 + 1
    assert len(decaying["params"]) + len(kept["params"]) == len(list(model.parameters()))
