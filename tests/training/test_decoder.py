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


def test_a_fresh_loss_grows_with_the_width_by_what_the_head_makes_of_it() -> None:
    shape = replace(TINY, width=512, heads=8, ffn_width=64, vocabulary=4000, tied_head=False)
    losses = {}
    for base_width in (None, 64):
        model = Decoder(shape)
        model.initialise(0, base_width=base_width)
        tokens = torch.randint(4000, (32, 17), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            features = model.features(tokens[:, :-1]).flatten(0, 1)
            total = loss_sum(features, model.head.weight, tokens[:, 1:].flatten())
        losses[base_width] = total.item() / (32 * 16)
    # Logits are normal with variance std^2 * width, whose log-mean-exp is half of that.
    assert losses[None] == pytest.approx(math.log(4000) + 0.02**2 * 512 / 2, abs=0.03)
    assert losses[64] == pytest.approx(math.log(4000), abs=0.01)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("base_width", [None, 32])
def test_every_tensor_starts_as_the_module_says(tied: bool, base_width: int | None) -> None:
    shape = Architecture(
        layers=3, width=128, heads=4, kv_heads=2, ffn_width=256, vocabulary=600, context=8,
        tied_head=tied,
    )  # fmt: skip
    model = Decoder(shape)
    model.initialise(0, base_width=base_width)
    expected = {"qkv": 128**-0.5, "gate_up": 128**-0.5, "output": 768**-0.5, "down": 1536**-0.5}
    expected["head"] = 0.02 if base_width is None else 0.02 * 32 / 128
    expected["embedding"] = 128**-0.5 if tied else 1.0
    for name, weight in model.named_parameters():
        if name.endswith("norm.weight"):
            assert (weight == 1).all()
        else:
            wanted = expected[name.split(".")[-2]]
            assert weight.std().item() == pytest.approx(wanted, rel=0.03), name
            assert abs(weight.mean().item()) < 5 * wanted / weight.numel() ** 0.5, name


def stacked(shape: Architecture, seeds: list[int]) -> tuple[Decoder, list[Decoder]]:
    """Decoders on their own, and the same ones as a stack."""
    alone = [decoder(shape, seed) for seed in seeds]
    together = Decoder(shape, runs=len(seeds))
    with torch.no_grad():
        for name, weight in together.named_parameters():
            weight.copy_(torch.stack([dict(one.named_parameters())[name] for one in alone]))
    return together, alone


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_stacked_runs_have_the_logits_and_gradients_of_each_alone(shape: Architecture) -> None:
    together, alone = stacked(shape, [3, 4, 5])
    chance = torch.Generator().manual_seed(0)
    tokens = torch.randint(shape.vocabulary, (3, 2, shape.context), generator=chance)
    slope = torch.randn(3, 2 * shape.context, shape.vocabulary, generator=chance)
    logits = together(tokens)
    assert logits.shape == slope.shape
    logits.backward(slope)
    for run, model in enumerate(alone):
        own = model(tokens[run]).flatten(0, 1)
        torch.testing.assert_close(logits[run], own, rtol=1e-4, atol=1e-5)
        own.backward(slope[run])
        for name, weight in together.named_parameters():
            expected = dict(model.named_parameters())[name].grad
            torch.testing.assert_close(weight.grad[run], expected, rtol=1e-4, atol=1e-4)


def test_a_run_that_is_no_number_leaves_the_others_as_they_were() -> None:
    together, alone = stacked(TINY, [0, 1])
    tokens = torch.arange(16).repeat(2, 1, 1)
    with torch.no_grad():
        together.blocks[0].ffn.down.weight[0, 0, 0] = torch.nan
        logits = together(tokens)
        own = alone[1](tokens[1])[0]
    assert logits[0].isnan().any()
    torch.testing.assert_close(logits[1], own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_stacked_runs_start_as_each_would_alone(tied: bool) -> None:
    shape = replace(TINY, tied_head=tied)
    together = Decoder(shape, runs=2)
    together.initialise([7, 8], base_width=None if tied else 12)
    for run, seed in enumerate((7, 8)):
        model = Decoder(shape)
        model.initialise(seed, base_width=None if tied else 12)
        for name, weight in model.named_parameters():
            assert torch.equal(dict(together.named_parameters())[name][run], weight)


@pytest.mark.parametrize("runs", [None, 2])
def test_bfloat16_stays_near_float32(runs: int | None) -> None:
    """Its 8 significant bits: 0.4 % of the logits' spread here, and never more than 1 %."""
    shape = Architecture(
        layers=6, width=128, heads=4, kv_heads=2, ffn_width=336, vocabulary=500, context=256,
        tied_head=False,
    )  # fmt: skip
    model = Decoder(shape, runs=runs)
    model.initialise(0 if runs is None else [0, 1])
    chance = torch.Generator().manual_seed(0)
    tokens = torch.randint(500, (2, 256) if runs is None else (2, 1, 256), generator=chance)
    whole = model(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(tokens)
    assert rounded.dtype == torch.bfloat16
    assert rounded.isfinite().all()
    miss = (rounded.float() - whole).pow(2).mean().sqrt() / whole.std()
    assert miss.item() < 0.01
    slope = torch.randn(whole.shape, generator=chance)
    expected = torch.autograd.grad(whole, list(model.parameters()), slope)
    found = torch.autograd.grad(rounded, list(model.parameters()), slope.bfloat16())
    for own, other in zip(found, expected, strict=True):
        assert own.dtype == torch.float32  # weights and their gradients stay float32
        assert ((own - other).norm() / other.norm()).item() < 0.02


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
