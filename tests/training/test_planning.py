"""Plans: the fastest way that was measured, what it costs, and what memory allows."""

from dataclasses import replace

import pytest
import torch

from mixlab.errors import InvalidRecipe, NotEnoughMemory
from mixlab.recipes import Recipe
from mixlab.training.measuring import Measured, measure_throughput
from mixlab.training.memory import needed_memory
from mixlab.training.planning import _larger, choose, largest_stack, plan_of
from mixlab.training.stacked.batches import micro_batch
from tests.training.conftest import small_recipe

CPU = torch.device("cpu")
RECIPE = small_recipe()


def measured(runs: int, tokens_per_second: float, processes: int = 1) -> Measured:
    update = runs * processes * RECIPE.tokens_per_step / tokens_per_second
    return Measured(runs, processes, 1, update, tokens_per_second, None, "made up")


def test_the_fastest_for_all_runs_is_taken_and_told() -> None:
    ways = [measured(1, 1000.0), measured(2, 1500.0), measured(16, 4000.0), measured(1, 3000.0, 2)]
    found = plan_of(RECIPE, 32, CPU, ways)
    assert (found.way, found.stack, found.processes, found.rounds) == ("stacked", 16, 1, 2)
    told = found.reasons[-1]
    assert "stacks of 16: 4,000 tokens/s, 1.33 times as fast for 32 runs as the next" in told
    for other in ("one by one 1,000", "stacks of 2 1,500", "2 processes 3,000"):
        assert other in told


def test_a_stack_that_most_runs_leave_empty_is_not_taken() -> None:
    """Four times the rate, but two thirds of its places have no run."""
    found = plan_of(RECIPE, 5, CPU, [measured(1, 1500.0), measured(16, 4000.0)])
    assert found.way == "one by one"


@pytest.mark.parametrize(("runs", "stack", "rounds"), [(20, 10, 2), (16, 16, 1), (33, 11, 3)])
def test_stacks_are_as_even_as_can_be(runs: int, stack: int, rounds: int) -> None:
    found = plan_of(RECIPE, runs, CPU, [measured(16, 4000.0)])
    assert (found.stack, found.rounds) == (stack, rounds)


def test_costs_follow_their_formulas() -> None:
    found = plan_of(RECIPE, 10, CPU, [measured(1, 500.0, 2)], price_per_hour=3.0).cost
    shape = RECIPE.architecture
    assert found.tokens == 10 * 40 * 256
    # The tied table counts once, as the head.
    inner = shape.block_parameters + 64 * 16 + 16
    assert found.flops == found.tokens * (6 * inner + 12 * 2 * 16 * 32)
    assert found.seconds == pytest.approx(found.tokens / 500.0)
    assert found.price == pytest.approx(3.0 * found.seconds / 3600)
    assert plan_of(RECIPE, 10, CPU, [measured(1, 500.0)]).cost.price is None


def test_the_last_round_costs_what_a_full_one_does() -> None:
    one, more = (plan_of(RECIPE, runs, CPU, [measured(8, 800.0)]).cost.seconds for runs in (8, 9))
    assert more == pytest.approx(2 * one)


def test_growing_batches_are_in_the_time_and_the_tokens() -> None:
    growing = replace(RECIPE, batch_stages=((21, 24),))
    plain, larger = (plan_of(one, 1, CPU, [measured(1, 500.0)]).cost for one in (RECIPE, growing))
    assert larger.tokens == 2 * plain.tokens
    assert larger.seconds == pytest.approx(2 * plain.seconds)


def needed(recipe: Recipe, runs: int) -> int:
    sequences = micro_batch(recipe, CPU, runs, recipe.batch_sequences)
    return needed_memory(recipe, sequences=sequences, runs=runs, device=CPU).peak


@pytest.mark.parametrize("most", [1, 2, 7, 12])
def test_the_largest_stack_is_what_the_usable_memory_holds(most: int) -> None:
    free = int(needed(RECIPE, most) / 0.7) + 1
    assert largest_stack(RECIPE, 12, CPU, free=free) == most
    assert largest_stack(RECIPE, most, CPU, free=1 << 50) == most
    assert largest_stack(RECIPE, 12, CPU, free=0) == 1


def test_a_recipe_of_which_not_one_run_fits_is_refused_before_anything_is_allocated() -> None:
    huge = replace(
        RECIPE, architecture=replace(RECIPE.architecture, width=1 << 20, ffn_width=1 << 22)
    )
    with pytest.raises(NotEnoughMemory, match="One run of small needs at least"):
        choose(huge, 3, device=CPU)


def test_a_stack_that_does_not_fit_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(NotEnoughMemory, match=r"stack of 10000000 runs of small .* ask for"):
        choose(small_recipe(), 10**7, device="cpu", stack=10**7)


def test_devices_that_are_not_here_are_refused() -> None:
    with pytest.raises(InvalidRecipe, match="cpu or cuda, not tpu"):
        choose(RECIPE, 2, device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(InvalidRecipe, match="no CUDA device here"):
            choose(RECIPE, 2, device="cuda")


@pytest.mark.parametrize("runs", [1, 3])
def test_what_is_measured_is_a_rate_of_all_runs_together(runs: int) -> None:
    found = measure_throughput(RECIPE, CPU, runs, threads=1, seconds=0.05)
    assert (found.runs, found.processes, found.threads) == (runs, 1, 1)
    assert found.way == ("stacked" if runs > 1 else "one by one")
    assert found.tokens_per_second * found.update_seconds == pytest.approx(256 * runs)
    assert "timed updates on random tokens" in found.how


def test_what_would_take_too_long_is_extrapolated_and_says_so() -> None:
    found = measure_throughput(replace(RECIPE, compiled=True), CPU, 1, threads=1, seconds=1e-6)
    assert "extrapolated from 12% of a micro-batch" in found.how
    assert "without compiling" in found.how


def test_with_a_stack_asked_for_only_that_is_measured() -> None:
    found = choose(RECIPE, 6, device=CPU, stack=3, seconds=0.2)
    assert [(one.runs, one.processes) for one in found.measured] == [(3, 1)]
    assert (found.way, found.stack, found.rounds) == ("stacked", 3, 2)
    assert found.reasons[0] == "3 runs a program, as was asked for"


@pytest.mark.slow
def test_on_the_cpu_real_processes_with_runs_and_stacks_compete() -> None:
    found = choose(RECIPE, 8, device=CPU, seconds=4.0)
    assert [(one.runs, one.way) for one in found.measured[:1]] == [(1, "one by one")]
    for one in found.measured:
        assert one.tokens_per_second * one.update_seconds == pytest.approx(256 * one.at_once)
    best = max(found.measured, key=lambda one: one.tokens_per_second)
    assert f"{best.tokens_per_second:,.0f}" in found.reasons[-1]
    if found.processes > 1:
        assert "real processes at the same time" in found.measured[1].how
    assert {*found.to_dict()} >= {"way", "stack", "processes", "rounds", "measured", "cost"}


def test_recipes_that_roll_back_are_not_stacked() -> None:
    reasons: list[str] = []
    rolling = replace(RECIPE, on_anomaly="roll_back")
    assert not _larger(rolling, 64, lambda size: measured(size, 1.0), 60.0, reasons)
    assert "rolls back" in reasons[0]


@pytest.mark.parametrize(
    ("most", "tried"), [(1, []), (2, [2]), (3, [2, 3]), (8, [2, 4, 8]), (100, [2, 4, 8, 16])]
)
def test_no_larger_stacks_are_tried_than_pay_or_fit(most: int, tried: list[int]) -> None:
    def rate(size: int) -> float:
        return 100.0 * min(size, 8) - size

    found = _larger(RECIPE, most, lambda size: measured(size, rate(size)), 60.0, [])
    assert [one.runs for one in found] == tried
    reasons: list[str] = []
    assert not _larger(RECIPE, most, lambda size: measured(size, 1.0), -60.0, reasons)
    assert bool(reasons) == bool(tried)
