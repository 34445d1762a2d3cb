"""The stacked AdamW against torch's own, run by run."""

from dataclasses import replace

import pytest
import torch

from mixlab.recipes import Recipe
from mixlab.training.decoder import Decoder
from mixlab.training.optimiser import adamw, learning_rate
from mixlab.training.stacked.adamw import StackedAdamW, compiled_or_eager
from mixlab.training.stacked.model import alone
from tests.training.conftest import small_recipe

SEEDS = (3, 4, 5)
RATES = (1e-2, 3e-3, 1e-3)
ALL = torch.ones(3, dtype=torch.bool)


def stack(recipe: Recipe) -> tuple[Decoder, StackedAdamW]:
    decoder = Decoder(recipe.architecture, runs=3)
    decoder.initialise(SEEDS, base_width=recipe.base_width)
    return decoder, StackedAdamW(decoder, recipe)


def solo(recipe: Recipe, place: int) -> tuple[Decoder, torch.optim.Optimizer]:
    own = replace(recipe, learning_rate=RATES[place])
    decoder = Decoder(own.architecture)
    decoder.initialise(SEEDS[place], base_width=recipe.base_width)
    return decoder, adamw(decoder, own)


def give_gradients(decoder: Decoder, step: int) -> None:
    """Some that need a clip and some that don't, of one run or of a stack alike."""
    chance = torch.Generator().manual_seed(step)
    for weight in decoder.parameters():
        shape = weight.shape if decoder.runs is None else weight.shape[1:]
        values = torch.randn(shape, generator=chance) * (0.001 if step % 2 else 1.0)
        weight.grad = values if decoder.runs is None else torch.stack([values, values, values])


def update_solo(decoder: Decoder, optimiser: torch.optim.Optimizer, recipe: Recipe, step: int,
                place: int) -> None:  # fmt: skip
    own = replace(recipe, learning_rate=RATES[place])
    torch.nn.utils.clip_grad_norm_(decoder.parameters(), recipe.gradient_clip)
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(own, step) * group["scale"]
    optimiser.step()


def rates(recipe: Recipe, step: int) -> torch.Tensor:
    own = [learning_rate(replace(recipe, learning_rate=rate), step) for rate in RATES]
    return torch.tensor(own, dtype=torch.float64)


UNTIED = replace(small_recipe().architecture, tied_head=False)
KINDS = {
    "constant": small_recipe(),
    "cosine": replace(small_recipe(), schedule="cosine", final_learning_rate=1e-4),
    "maximal update": replace(small_recipe(), architecture=UNTIED, base_width=8),
    "no clip": replace(small_recipe(), gradient_clip=float("inf")),
}


@pytest.mark.parametrize("recipe", KINDS.values(), ids=KINDS.keys())
def test_each_run_is_updated_as_by_torch(recipe: Recipe) -> None:
    decoder, optimiser = stack(recipe)
    pairs = [solo(recipe, place) for place in range(3)]
    for step in range(1, 13):
        give_gradients(decoder, step)
        optimiser.step(rates(recipe, step), optimiser.norms(), ALL)
        for place, (own, of_torch) in enumerate(pairs):
            give_gradients(own, step)
            update_solo(own, of_torch, recipe, step, place)
    for place, (own, _) in enumerate(pairs):
        for mine, weight in zip(alone(decoder, place).parameters(), own.parameters(), strict=True):
            torch.testing.assert_close(mine, weight, rtol=2e-6, atol=2e-7)


def test_moments_in_bfloat16_are_rounded_as_the_solo_ones() -> None:
    recipe = replace(small_recipe(), moments="bfloat16")
    decoder, optimiser = stack(recipe)
    own, of_torch = solo(recipe, 0)
    for step in range(1, 7):
        give_gradients(decoder, step)
        optimiser.step(rates(recipe, step), optimiser.norms(), ALL)
        give_gradients(own, step)
        update_solo(own, of_torch, recipe, step, 0)
    assert {one.first.dtype for one in optimiser.weights} == {torch.bfloat16}
    for mine, weight in zip(alone(decoder, 0).parameters(), own.parameters(), strict=True):
        # A moment that lies between two roundings may fall to either.
        torch.testing.assert_close(mine, weight, rtol=1e-3, atol=1e-3)


def test_norms_are_those_of_each_runs_gradient() -> None:
    decoder, optimiser = stack(small_recipe())
    give_gradients(decoder, 2)
    for place, weight in enumerate(decoder.parameters()):
        weight.grad[place % 3] *= 2
    whole = [
        torch.cat([weight.grad[place].flatten() for weight in decoder.parameters()]).norm()
        for place in range(3)
    ]
    torch.testing.assert_close(optimiser.norms(), torch.stack(whole))


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), 1e30])
def test_a_run_that_is_left_out_keeps_everything_and_others_do_not_notice(broken: float) -> None:
    """Also where its gradient is only huge, and it is left out for another reason."""
    recipe = small_recipe()
    (decoder, optimiser), (sound_decoder, sound_optimiser) = stack(recipe), stack(recipe)
    for step in range(1, 7):
        give_gradients(decoder, step)
        give_gradients(sound_decoder, step)
        left_out = step in (3, 4)
        if left_out:
            for weight in decoder.parameters():
                weight.grad[1, 0] = broken
            before = [one.value[1].clone() for one in optimiser.weights]
            moments = [one.second[1].clone() for one in optimiser.weights]
        sound = torch.tensor([True, not left_out, True])
        optimiser.step(rates(recipe, step), optimiser.norms(), sound)
        sound_optimiser.step(rates(recipe, step), sound_optimiser.norms(), ALL)
        if left_out:
            assert all(map(torch.equal, before, [one.value[1] for one in optimiser.weights]))
            assert all(map(torch.equal, moments, [one.second[1] for one in optimiser.weights]))
    assert optimiser.counts.tolist() == [6, 4, 6]
    for mine, whole in zip(decoder.parameters(), sound_decoder.parameters(), strict=True):
        assert torch.equal(mine[[0, 2]], whole[[0, 2]])
        assert mine.isfinite().all()


def test_a_run_that_never_had_an_update_stays_as_it_began() -> None:
    decoder, optimiser = stack(small_recipe())
    began = [weight.detach()[1].clone() for weight in decoder.parameters()]
    give_gradients(decoder, 1)
    for weight in decoder.parameters():
        weight.grad[1] = float("nan")
    sound = torch.tensor([True, False, True])
    optimiser.step(rates(small_recipe(), 1), optimiser.norms(), sound)
    assert all(map(torch.equal, began, [weight[1] for weight in decoder.parameters()]))


@pytest.mark.slow
def test_compiled_for_all_shapes_at_once_it_is_the_same() -> None:
    """As on CUDA, but by torch's tracing alone, which needs no compiler."""
    recipe = small_recipe()
    (decoder, optimiser), (traced_decoder, traced) = stack(recipe), stack(recipe)
    traced._update = compiled_or_eager(traced._update, backend="aot_eager")
    for step in range(1, 5):
        for one in (decoder, traced_decoder):
            give_gradients(one, step)
            if step == 3:
                one.embedding.weight.grad[1, 0] = float("nan")
        sound = torch.tensor([True, step != 3, True])
        before = traced_decoder.embedding.weight.detach()[1].clone()
        optimiser.step(rates(recipe, step), optimiser.norms(), sound)
        traced.step(rates(recipe, step), traced.norms(), sound)
        assert torch.equal(before, traced_decoder.embedding.weight[1]) == (step == 3)
    for mine, other in zip(traced_decoder.parameters(), decoder.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_a_compiler_that_fails_costs_speed_and_not_the_update() -> None:
    def broken(*_: object) -> object:
        raise RuntimeError("no such compiler")

    (decoder, optimiser), (plain_decoder, plain) = stack(small_recipe()), stack(small_recipe())
    optimiser._update = compiled_or_eager(optimiser._update, backend=broken)
    for one, of_one in ((decoder, optimiser), (plain_decoder, plain)):
        give_gradients(one, 1)
        of_one.step(rates(small_recipe(), 1), of_one.norms(), ALL)
    for mine, other in zip(decoder.parameters(), plain_decoder.parameters(), strict=True):
        assert torch.equal(mine, other)
