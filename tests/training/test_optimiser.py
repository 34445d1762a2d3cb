"""Learning rates by step, which weights decay, maximal update, and moments in bfloat16."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from mixlab.recipes import Architecture, Recipe, proxy_tiny, tinyllama_1b
from mixlab.training import rounded
from mixlab.training.decoder import Decoder
from mixlab.training.head import loss_sum
from mixlab.training.optimiser import adamw, learning_rate, parameter_groups
from mixlab.training.rounded import RoundedAdamW

SETTINGS: dict[str, Any] = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1}


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


def test_tinyllamas_rate_is_its_scripts_at_every_step() -> None:
    recipe = tinyllama_1b()
    for step in (1, 1999, 2000, 2001, 400_000, 1_430_512):
        assert learning_rate(recipe, step) == pytest.approx(lit_gpt_rate(step), rel=1e-12)


def lit_gpt_rate(step: int) -> float:
    """`get_lr` of TinyLlama's `pretrain/tinyllama.py`, as its paper states it."""
    peak, least, warmup, last = 4e-4, 4e-5, 2000, 715_256 * 2
    if step < warmup:
        return peak * step / warmup
    done = (step - warmup) / (last - warmup)
    return least + 0.5 * (1 + math.cos(math.pi * done)) * (peak - least)


def test_a_stable_rate_decays_in_a_line_over_the_last_steps() -> None:
    recipe = replace(
        proxy_tiny(), steps=100, warmup_steps=10, learning_rate=1.0, schedule="wsd",
        decay_steps=20, final_learning_rate=0.5, evaluation_steps=(100,),
    )  # fmt: skip
    rates = [learning_rate(recipe, step) for step in (5, 10, 80, 81, 90, 100)]
    assert rates == pytest.approx([0.5, 1, 1, 0.975, 0.75, 0.5], rel=1e-12)


def test_a_branch_has_the_rates_of_its_stem_until_it_decays() -> None:
    stem = proxy_tiny()
    branch = stem.decayed(after=110, decay_steps=30)
    assert [learning_rate(branch, s) for s in range(1, 111)] == [
        learning_rate(stem, s) for s in range(1, 111)
    ]
    assert learning_rate(branch, 111) < stem.learning_rate
    assert learning_rate(branch, branch.steps) == 0


def test_matrices_decay_and_norms_do_not() -> None:
    model = Decoder(proxy_tiny().architecture)
    decaying, kept = adamw(model, proxy_tiny()).param_groups
    assert decaying["weight_decay"] == 0.1
    assert kept["weight_decay"] == 0.0
    assert decaying["scale"] == kept["scale"] == 1
    assert len(kept["params"]) == 2 * 2 + 1
    assert len(decaying["params"]) + len(kept["params"]) == len(list(model.parameters()))


class Wrapped(nn.Module):
    """As DDP, compile and a loss module name what they wrap."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.module = nn.ModuleDict({"decoder": decoder})


@pytest.mark.parametrize("runs", [None, 3])
@pytest.mark.parametrize("wrapped", [False, True])
def test_by_maximal_update_what_reads_the_stream_learns_more_slowly(
    runs: int | None, wrapped: bool
) -> None:
    recipe = replace(proxy_tiny(), base_width=16)  # a quarter of its width
    decoder = Decoder(recipe.architecture, runs=runs)
    groups = parameter_groups(Wrapped(decoder) if wrapped else decoder, recipe)
    found = {id(weight): group for group in groups for weight in group["params"]}
    by_name = {name: found[id(weight)] for name, weight in decoder.named_parameters()}
    scales = {name: group["scale"] for name, group in by_name.items()}
    assert {name for name, scale in scales.items() if scale == 1} == {
        name for name in scales if "norm" in name or name == "embedding.weight"
    }
    assert {scale for scale in scales.values() if scale != 1} == {0.25}
    # Every matrix forgets over the same number of updates.
    for name, group in by_name.items():
        forgets = 0.0 if "norm" in name else recipe.learning_rate * recipe.weight_decay
        assert group["lr"] * group["weight_decay"] == pytest.approx(forgets)


def changes(width: int, base_width: int | None) -> tuple[float, float]:
    """Root mean square changes of features and logits in four updates at one rate."""
    shape = Architecture(2, width, width // 16, width // 16, 2 * width, 64, 16, tied_head=False)
    recipe = replace(
        proxy_tiny(), architecture=shape, learning_rate=1e-2, warmup_steps=0, base_width=base_width
    )
    model = Decoder(shape)
    model.initialise(0, base_width=base_width)
    optimiser = adamw(model, recipe)
    tokens = torch.randint(0, 64, (8, 17), generator=torch.Generator().manual_seed(1))
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].flatten()

    def outputs() -> tuple[Tensor, Tensor]:
        features = model.features(inputs)
        return features, features @ model.head.weight.T

    with torch.no_grad():
        before = outputs()
    for _ in range(4):
        optimiser.zero_grad()
        features = model.features(inputs).flatten(0, 1)
        (loss_sum(features, model.head.weight, targets) / len(targets)).backward()
        optimiser.step()
    with torch.no_grad():
        after = outputs()
    features, logits = ((b - a).square().mean().sqrt().item() for a, b in
                        zip(before, after, strict=True))  # fmt: skip
    return features, logits


def test_coordinate_check_changes_do_not_grow_with_width_under_the_rule_alone() -> None:
    # Tensor Programs V, figure 5: the sizes of activations' changes over widths.
    small, large = changes(32, 32), changes(256, 32)
    assert all(b < 1.1 * a for a, b in zip(small, large, strict=True))
    assert small == changes(32, None)  # at the base width the rule changes nothing
    features, logits = changes(256, None)
    assert features > 1.5 * small[0]
    assert logits > 3.5 * small[1]


def weights(*, seed: int = 0) -> list[nn.Parameter]:
    chance = torch.Generator().manual_seed(seed)
    shapes = ((100, 57), (20_001,), (64,), (1,))
    return [nn.Parameter(torch.randn(shape, generator=chance)) for shape in shapes]


def train(optimisers: dict[torch.optim.Optimizer, list[nn.Parameter]], updates: int) -> None:
    """The same gradients for all: noise around the weight itself, so that there is a minimum."""
    chance = torch.Generator().manual_seed(7)
    for _ in range(updates):
        noise = [torch.randn(w.shape, generator=chance) for w in weights()]
        for optimiser, own in optimisers.items():
            for weight, part in zip(own, noise, strict=True):
                weight.grad = weight.detach() + part
            optimiser.step()


def test_with_float32_moments_it_is_torchs_adamw_to_the_last_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(rounded.CHUNK, "cpu", 1 << 12)  # several chunks a weight
    ours, theirs, plain = weights(), weights(), weights()
    train(
        {
            RoundedAdamW([{"params": ours}], moments=torch.float32, **SETTINGS): ours,
            torch.optim.AdamW(theirs, fused=True, **SETTINGS): theirs,
            torch.optim.AdamW(plain, foreach=False, **SETTINGS): plain,
        },
        updates=30,
    )
    for own, fused, slow in zip(ours, theirs, plain, strict=True):
        assert torch.equal(own, fused)
        assert (own - slow).abs().max() < 1e-6


def test_bfloat16_moments_end_where_float32_ones_do() -> None:
    ours, theirs = weights(), weights()
    small = RoundedAdamW([{"params": ours}], **SETTINGS)
    train({small: ours, torch.optim.AdamW(theirs, fused=True, **SETTINGS): theirs}, updates=300)
    assert all(small.state[w]["exp_avg_sq"].dtype == torch.bfloat16 for w in ours)
    for own, exact in zip(ours, theirs, strict=True):
        assert (own - exact).square().mean().sqrt() < 0.03 * exact.square().mean().sqrt()


def test_second_moments_follow_gradients_down_and_up_within_rounding() -> None:
    weight = nn.Parameter(torch.zeros(1000))
    optimiser = RoundedAdamW([{"params": [weight]}], **SETTINGS)
    sizes = torch.logspace(-6, 2, 1000)
    for wanted in (sizes, sizes * 1e-3, sizes * 1e3):
        for _ in range(600):
            weight.grad = wanted.clone()
            optimiser.step()
        found = optimiser.state[weight]["exp_avg_sq"].float()
        # It rests where 0.05 of the miss is at most half a unit of the last of its 8 bits.
        assert ((wanted.square() / found - 1).abs() <= 1.001 * 2**-8 / 0.05).all()


def test_distributed_checkpoints_state_dicts_carry_the_moments_as_they_are() -> None:
    recipe = replace(proxy_tiny(), moments="bfloat16", base_width=32)

    def made(updates: int) -> tuple[Decoder, torch.optim.Optimizer]:
        model = Decoder(recipe.architecture)
        model.initialise(0)
        optimiser = adamw(model, recipe)
        chance = torch.Generator().manual_seed(3)
        for _ in range(updates):
            for weight in model.parameters():
                weight.grad = torch.randn(weight.shape, generator=chance)
            optimiser.step()
        return model, optimiser

    model, optimiser = made(3)
    saved = get_optimizer_state_dict(model, optimiser)
    other, fresh = made(0)
    set_optimizer_state_dict(other, fresh, optim_state_dict=saved)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert optimiser.state[a].keys() == fresh.state[b].keys() == {
            "step", "exp_avg", "exp_avg_sq"
        }  # fmt: skip
        for name, value in optimiser.state[a].items():
            assert torch.equal(value, fresh.state[b][name])
            assert value.dtype == fresh.state[b][name].dtype
    assert [g["scale"] for g in fresh.param_groups] == [g["scale"] for g in optimiser.param_groups]


@pytest.fixture
def group_of_one() -> Iterator[None]:
    """A process group of this process alone, so that sharded weights are as on many ranks."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group_of_one")
def test_moments_of_sharded_weights_are_sharded_and_the_same() -> None:
    recipe = replace(proxy_tiny(), moments="bfloat16", base_width=32)
    models = [Decoder(recipe.architecture) for _ in range(2)]
    for model in models:
        model.initialise(0, base_width=32)
    fully_shard(models[1])
    optimisers = [adamw(model, recipe) for model in models]
    tokens = torch.randint(0, 2048, (2, 16), generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        for model, optimiser in zip(models, optimisers, strict=True):
            optimiser.zero_grad()
            model(tokens).square().mean().backward()
            optimiser.step()
    for whole, part in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(whole, part.full_tensor())
        for name in ("exp_avg", "exp_avg_sq"):
            moment = optimisers[1].state[part][name]
            assert isinstance(moment, DTensor)
            assert torch.equal(moment.full_tensor(), optimisers[0].state[whole][name])
