"""When to grow and by how much: the published cases, and an answer only where the rule holds."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixlab.corpora.sampling import Sampler
from mixlab.errors import InvalidBudget, InvalidRecipe
from mixlab.growing.planning import factor_for, large_of, plan, rule_tokens, small_of
from mixlab.mixture import Mixture
from mixlab.recipes import Recipe, recipe, tinyllama_1b
from tests.corpora.test_sampling_schedules import Stream
from tests.training.conftest import small_recipe


@pytest.mark.parametrize(
    ("params", "tokens", "published"),
    [
        (7_000_000_000, 2_000_000_000_000, 11.11e9),
        (8_000_000_000, 15_000_000_000_000, 6.58e9),
        (13_000_000_000, 2_000_000_000_000, 15.84e9),
        (70_000_000_000, 2_000_000_000_000, 42.48e9),
    ],
)
def test_the_plan_has_the_four_published_cases(params: int, tokens: int, published: float) -> None:
    found = plan(params, tokens)
    assert found.tokens == pytest.approx(published, abs=0.005e9)
    assert (found.note, found.flops) == ("", 6.0 * params * tokens)


def test_a_short_run_would_grow_at_its_end_and_is_refused_or_clamped() -> None:
    assert rule_tokens(1.1e9, 22e9) / 22e9 == pytest.approx(0.94, abs=0.005)
    with pytest.raises(InvalidBudget, match=r"2\.062e\+10 tokens, 94 % .* at most 4400000000"):
        plan(1_100_000_000, 22_000_000_000)
    clamped = plan(1_100_000_000, 22_000_000_000, outside="clamp")
    assert clamped.tokens == 4_400_000_000
    assert "not the rule's 2.062e+10 tokens but a fifth" in clamped.note.lower()
    # A little more than a fifth is refused too.
    assert 0.2 < rule_tokens(1.1e9, 55e9) / 55e9 < 0.3
    with pytest.raises(InvalidBudget, match="of the budget"):
        plan(1_100_000_000, 55_000_000_000)
    assert plan(1_100_000_000, 100_000_000_000).note == ""


@pytest.mark.parametrize("params", [12_000, 100_000_000_000])
def test_models_of_sizes_that_nobody_grew_are_refused(params: int) -> None:
    with pytest.raises(InvalidBudget, match=f"{params} parameters are outside of 410000000"):
        plan(params, 10**13)
    clamped = plan(params, 10**13, outside="clamp")
    assert clamped.tokens == int(clamped.rule_tokens)
    assert clamped.note.startswith(f"The rule's own tokens, though {params} parameters")


@pytest.mark.parametrize(("params", "tokens"), [(0, 10), (10, 0), (-1, 10)])
def test_no_model_and_no_budget_are_refused(params: int, tokens: int) -> None:
    with pytest.raises(InvalidBudget, match="1 or more"):
        plan(params, tokens)


def test_a_depth_that_4_does_not_divide_grows_by_3_or_2_or_not_at_all() -> None:
    depths = (24, 20, 22, 21, 30)
    assert [factor_for(depth) for depth in depths] == [4, 4, 2, 3, 3]
    assert factor_for(12, 6) == 6
    with pytest.raises(InvalidRecipe, match=r"22 layers are not 4 .*grow by 2, or .* 20 or 24"):
        factor_for(22, 4)
    with pytest.raises(InvalidRecipe, match=r"23 layers are not 4, 3 or 2 .* 20 or 24 layers"):
        factor_for(23)
    for factor in (1, 0, -4, 2.5):
        with pytest.raises(InvalidRecipe, match="whole factor of at least 2"):
            factor_for(20, factor)  # type: ignore[arg-type]


def grown(whole: Recipe, factor: int, tokens: int) -> tuple[Recipe, Recipe]:
    small = small_of(whole, factor, tokens)
    return small, large_of(whole, small)


@given(
    steps=st.integers(2, 60), share=st.floats(0, 1, exclude_max=True),
    stages=st.dictionaries(st.integers(2, 60), st.integers(1, 20), max_size=3),
    kind=st.sampled_from(["constant", "cosine", "wsd"]),
)  # fmt: skip
def test_small_and_large_run_make_the_recipes_batches(
    steps: int, share: float, stages: dict[int, int], kind: str
) -> None:
    whole = replace(
        small_recipe(steps), schedule=kind, decay_steps=1 if kind == "wsd" else 0,
        warmup_steps=min(5, steps - 1),
        batch_stages=tuple(sorted((at, n) for at, n in stages.items() if at <= steps)),
    )  # fmt: skip
    tokens = max(1, int(share * whole.tokens_before(whole.steps)))
    small, large = grown(whole, 2, tokens)
    assert small.tokens + large.tokens == whole.tokens
    assert small.tokens_before(small.steps) < tokens <= small.tokens
    batches = [one.sequences(step) for one in (small, large) for step in range(1, one.steps + 1)]
    assert batches == [whole.sequences(step) for step in range(1, steps + 1)]
    looked = [*small.evaluation_steps, *(small.steps + s for s in large.evaluation_steps)]
    assert set(whole.evaluation_steps) <= set(looked)
    assert small.architecture.layers * 2 == large.architecture.layers
    assert large.architecture == whole.architecture


def test_the_small_run_is_the_recipes_but_for_its_depth_and_its_rate() -> None:
    small, large = grown(recipe("tinyllama_1b"), 2, 3_460_000_000)
    whole = tinyllama_1b()
    assert small.architecture.layers == 11
    assert (small.architecture.context, small.architecture.vocabulary) == (2048, 32_000)
    assert small.batch_sequences == large.batch_sequences == whole.batch_sequences
    assert (small.schedule, large.schedule, large.warmup_steps) == ("constant", "cosine", 2000)
    assert small.steps == 1650  # the first update that reaches them
    assert small_of(whole, 2, 10**9, learning_rate=1e-3).learning_rate == 1e-3


@pytest.mark.parametrize("tokens", [0, -1, 2.5, 10**12])
def test_a_growth_before_the_first_or_in_the_last_update_is_refused(tokens: int) -> None:
    with pytest.raises(InvalidRecipe, match="it can grow after 1 to 9984 of them"):
        small_of(small_recipe(), 2, tokens)


def test_the_published_run_would_go_on_at_the_token_where_its_script_went_back() -> None:
    """5,000 updates of 1024 sequences, then micro-batches of 8 rows where there had been 32.

    The script skips 5,000 micro-batches and so reads 7.9B of 10.5B tokens again
    (tongxuluo/prts at bf6f7747, `--resume_id`).
    """
    gpus, context = 32, 2048
    seen, skipped = (5000 * rows * gpus * context for rows in (32, 8))
    assert (seen - skipped) / 1e9 == pytest.approx(7.9, abs=0.05)
    whole = replace(
        tinyllama_1b(), steps=300_000, evaluation_steps=(300_000,),
        architecture=replace(tinyllama_1b().architecture, layers=24),
    )  # fmt: skip
    small = small_of(whole, 4, seen)
    assert (small.steps, small.tokens) == (5000, seen)
    streams = {"slim": Stream(10**12, 0), "star": Stream(4 * 10**11, 0)}

    def sampler(batch: int, first_token: int = 0) -> Sampler:
        return Sampler(streams, Mixture({"slim": 0.7, "star": 0.3}), context=context,
                       batch_sequences=batch, seed=0, first_token=first_token)  # fmt: skip

    one, large = sampler(1024), sampler(256, small.tokens)
    before, after = one.consumed(0, 5000), large.consumed(0, 400)
    assert {name: before[name] + after[name] for name in before} == one.consumed(0, 5100)
    places = [
        [(slot.domain, slot.window) for slot in made.placements(step)]
        for made, step in ((one, 5000), (large, 0))
    ]
    assert places[1] == places[0][:256]
