"""The decoder against a plain float64 reference, and its parameters against the formula."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlab.recipes import RECIPES, Architecture, tinyllama_1b
from mixlab.training.decoder import Decoder
from mixlab.training.head import loss_sum
from tests.training.reference import logits as reference_logits

TINY = Architecture(
    layers=2, width=24, heads=4, kv_heads=2, ffn_width=40, vocabulary=50, context=16, tied_head=True
)
SHAPES = {
    "grouped and tied": TINY,
    "untied": replace(TINY, tied_head=False),
    "one key head": replace(TINY, kv_heads=1),
    "plain heads": replace(TINY, kv_heads=4),
    "another rotation": replace(TINY, rope_theta=500.0, norm_epsilon=1e-3),
}


def decoder(shape: Architecture, seed: int = 0) -> Decoder:
    model = Decoder(shape)
    model.initialise(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:  # norms that are not 1, so that a lost gain would show
                weight.copy_(torch.linspace(0.5, 1.5, len(weight)))
    return model


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_logits_match_the_float64_reference(shape: Architecture) -> None:
    model = decoder(shape).double()
    tokens = np.random.default_rng(0).integers(shape.vocabulary, size=(3, shape.context))
    weights = {name: weight.detach().numpy() for name, weight in model.named_parameters()}
    # Angles are kept in float32; the reference has them in float64.
    expected = [reference_logits(weights, shape, row) for row in tokens]
    with torch.no_grad():
        found = model(torch.from_numpy(tokens)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_float32_stays_near_float64() -> None:
    model = decoder(TINY)
    tokens = torch.arange(16)[None]
    with torch.no_grad():
        single = model(tokens).double()
        double = model.double()(tokens)
    torch.testing.assert_close(single, double, rtol=1e-4, atol=1e-5)


def test_no_place_sees_what_comes_after_it() -> None:
    model = decoder(TINY)
    tokens = torch.randint(50, (1, 16), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[0, 9:] = (changed[0, 9:] + 1) % 50
    with torch.no_grad():
        before, after = model(tokens)[0], model(changed)[0]
    torch.testing.assert_close(before[:9], after[:9], rtol=0, atol=0)
    assert not torch.allclose(before[9:], after[9:])


def test_a_fresh_model_knows_nothing() -> None:
    model = Decoder(replace(TINY, width=64, vocabulary=2000, tied_head=False))
    model.initialise(0)
    tokens = torch.randint(2000, (8, 17), generator=torch.Generator().manual_seed(0))
    features = model.features(tokens[:, :-1]).flatten(0, 1)
    loss = loss_sum(features, model.head.weight, tokens[:, 1:].flatten()) / (8 * 16)
    assert loss.item() == pytest.approx(math.log(2000), abs=0.05)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    states = []
    for seed in (5, 5, 6):
        torch.randn(seed)  # the global generator must not matter
        model = Decoder(TINY)
        model.initialise(seed)
        states.append(torch.cat([weight.flatten() for weight in model.parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@given(
    layers=st.integers(1, 3),
    groups=st.integers(1, 4),
    kv_heads=st.integers(1, 3),
    half_head=st.integers(1, 8),
    ffn_width=st.integers(1, 99),
    vocabulary=st.integers(2, 99),
    tied_head=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_parameters_are_exactly_what_the_architecture_says(
    layers: int, groups: int, kv_heads: int, half_head: int, ffn_width: int, vocabulary: int,
    tied_head: bool,
) -> None:  # fmt: skip
    heads = groups * kv_heads
    shape = Architecture(
        layers, heads * 2 * half_head, heads, kv_heads, ffn_width, vocabulary, 4, tied_head
    )
    with torch.device("meta"):
        model = Decoder(shape)
    assert sum(weight.numel() for weight in model.parameters()) == shape.parameters


def test_tinyllama_has_its_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = Decoder(tinyllama_1b().architecture)
    assert sum(weight.numel() for weight in model.parameters()) == 1_100_048_384
    assert all(weight.is_meta for weight in model.parameters())


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_decoder(name: str) -> None:
    shape = RECIPES[name]().architecture
    with torch.device("meta"):
        model = Decoder(shape)
        logits = model(torch.zeros((1, 2), dtype=torch.int64))
    assert logits.shape == (1, 2, shape.vocabulary)
