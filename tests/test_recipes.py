"""Recipes: whole, consistent, and the same after a trip through JSON."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixlab.errors import InvalidMixture, InvalidRecipe, UnknownRecipe
from mixlab.recipes import (
    RECIPES,
    Architecture,
    Flops,
    Recipe,
    proxy_tiny,
    rate_for_batch,
    recipe,
    target_small,
    tinyllama_1b,
    tinyllama_v1_1,
    tinyllama_v1_1_mixture,
)

LADDER = ("proxy_300k", "proxy_1m", "proxy_5m", "proxy_15m", "proxy_60m")


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_json(name: str) -> None:
    made = recipe(name)
    assert made.name == name
    assert Recipe.from_dict(json.loads(json.dumps(made.to_dict()))) == made


@pytest.mark.parametrize(
    "wrong", [{"name": "x"}, {"colour": "red"}, {"learning_rate": "fast"}, {"betas": 3}]
)
def test_other_json_is_refused(wrong: dict[str, object]) -> None:
    whole = proxy_tiny().to_dict()
    with pytest.raises(InvalidRecipe, match="what Recipe"):
        Recipe.from_dict(wrong if "name" in wrong else {**whole, **wrong})


def test_an_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(
        UnknownRecipe, match=r"no recipe 'huge'; there are .*proxy_tiny, target_small"
    ):
        recipe("huge")


def test_tinyllama_is_the_published_one() -> None:
    made = recipe("tinyllama_1b")
    assert made.architecture.parameters == 1_100_048_384
    assert made.tokens_per_step == 2_097_152
    assert made.tokens == pytest.approx(3e12, rel=1e-4)
    assert (made.learning_rate, made.final_learning_rate, made.warmup_steps) == (4e-4, 4e-5, 2000)
    assert (made.betas, made.weight_decay, made.gradient_clip) == ((0.9, 0.95), 0.1, 1.0)


@pytest.mark.parametrize(
    ("formula", "percent"),
    [(Flops.WITHOUT_EMBEDDING, 56.3), (Flops.CAUSAL, 52.0), (Flops.ALL_PARAMETERS, 59.3)],
)
def test_each_published_utilisation_of_tinyllama_is_one_formulas(
    formula: Flops, percent: float
) -> None:
    # 24,000 tokens/s on an A100 of 312 TFLOP/s: its README, litgpt's, and its own estimate.
    used = 24_000 * tinyllama_1b().architecture.flops_per_token(formula) / 312e12
    assert 100 * used == pytest.approx(percent, abs=0.05)


@pytest.mark.parametrize("tied", [False, True])
def test_parameters_add_up(tied: bool) -> None:
    shape = replace(proxy_tiny().architecture, tied_head=tied)
    table = shape.vocabulary * shape.width
    assert shape.head_parameters == table
    assert shape.parameters == shape.block_parameters + shape.width + table * (1 if tied else 2)
    # A tied table is multiplied by all the same.
    assert shape.parameters_without_embedding == shape.block_parameters + shape.width + table


def test_the_ladder_climbs_by_its_rules() -> None:
    rungs = [recipe(name) for name in LADDER]
    shapes = [one.architecture for one in rungs]
    assert shapes[0].block_parameters == pytest.approx(0.35e6, rel=0.01)
    assert shapes[-1].block_parameters == pytest.approx(57e6, rel=0.01)
    for small, large in pairwise(rungs):
        ratio = large.architecture.block_parameters / small.architecture.block_parameters
        assert 2.9 < ratio < 4.1
        assert large.batch_sequences == 2 * small.batch_sequences
    # What maximal update needs to be the same, and what makes losses comparable.
    alike = {
        (s.head_width, s.heads / s.kv_heads, s.ffn_width / s.width, s.vocabulary, s.context)
        for s in shapes
    }
    assert alike == {(32, 4, 2.75, 2048, 256)}
    assert {(r.learning_rate, r.base_width, r.schedule) for r in rungs} == {
        (4.5e-3, 64, "constant")
    }
    for one in rungs:
        ideal = 20 * one.architecture.parameters_without_embedding
        assert one.tokens == pytest.approx(ideal, rel=1e-3)
    shares = [round(100 * s.head_share) for s in shapes]
    assert shares == [35, 24, 13, 6, 3]


def test_the_recipes_that_results_stand_on_are_as_they_were() -> None:
    tiny, target = proxy_tiny(), target_small()
    assert (tiny.architecture.parameters, tiny.tokens, tiny.learning_rate) == (
        348_480, 512_000, 4.5e-3
    )  # fmt: skip
    assert (target.architecture.parameters, target.tokens, target.learning_rate) == (
        1_059_712, 1_638_400, 3e-3
    )  # fmt: skip
    for one in (tiny, target):
        assert (one.base_width, one.moments, one.batch_stages) == (None, "float32", ())


def test_regmixs_proxy_is_mostly_head() -> None:
    shape = recipe("regmix_1m").architecture
    assert shape.block_parameters == pytest.approx(1.31e6, rel=1e-2)
    assert shape.parameters == pytest.approx(27.1e6, rel=1e-2)
    assert shape.head_share > 0.75


def test_tinyllama_v1_1_raises_its_batch_for_the_cool_down() -> None:
    made = tinyllama_v1_1()
    ((cool, larger),) = made.batch_stages
    assert made.tokens == pytest.approx(2e12, rel=1e-4)
    assert made.tokens_before(cool) == pytest.approx(1.85e12, rel=1e-4)
    assert made.sequences(cool - 1) * 2048 == pytest.approx(1.8e6, rel=0.01)
    assert made.sequences(cool) == larger == 4 * made.batch_sequences


@pytest.mark.parametrize(
    ("variant", "shares"),
    [
        ("math_code", {"slimpajama": 0.75, "starcoder": 0.15, "proof_pile": 0.1}),
        ("chinese", {"slimpajama": 0.5, "skypile": 0.5}),
        ("plain", {"slimpajama": 1.0}),
    ],
)
def test_tinyllama_v1_1s_mixture_ramps_over_six_billion_tokens(
    variant: str, shares: dict[str, float]
) -> None:
    schedule = tinyllama_v1_1_mixture(variant)
    for seen, done in ((0, 0), (1.5e12, 0), (1.503e12, 0.5), (1.506e12, 1), (2e12, 1)):
        expected = {d: done * share for d, share in shares.items() if d != "slimpajama"}
        expected["slimpajama"] = 1 - sum(expected.values())
        assert schedule.shares(int(seen)) == pytest.approx(expected)


def test_tinyllama_v1_1_has_three_variants() -> None:
    with pytest.raises(InvalidMixture, match="math_code, chinese"):
        tinyllama_v1_1_mixture("french")


stages = st.lists(
    st.tuples(st.integers(2, 40), st.integers(1, 50)), max_size=4, unique_by=lambda s: s[0]
)


@given(stages=stages, first=st.integers(1, 50))
def test_tokens_before_a_step_are_those_of_all_earlier_batches(
    stages: list[tuple[int, int]], first: int
) -> None:
    made = replace(
        proxy_tiny(), steps=40, batch_sequences=first, batch_stages=tuple(sorted(stages)),
        evaluation_steps=(40,),
    )  # fmt: skip
    running = 0
    for step in range(1, 42):
        assert made.tokens_before(step) == running
        begun = [size for start, size in sorted(stages) if start <= step]
        assert made.sequences(step) == (begun[-1] if begun else first)
        running += made.sequences(step) * made.architecture.context
    assert made.tokens == made.tokens_before(41)


@given(stages=stages, steps=st.integers(1, 90), decay=st.integers(1, 20))
def test_another_length_keeps_what_is_stated_from_the_end_in_proportion(
    stages: list[tuple[int, int]], steps: int, decay: int
) -> None:
    made = replace(
        proxy_tiny(), steps=40, schedule="wsd", decay_steps=decay,
        batch_stages=tuple(sorted(stages)),
        evaluation_steps=(40,),
    )  # fmt: skip
    other = made.lasting(steps)  # and no rule is broken
    assert abs(other.decay_steps - decay * steps / 40) <= 1
    assert other.warmup_steps == min(made.warmup_steps, steps - other.decay_steps)
    assert len(other.batch_stages) <= len(stages)
    assert other.sequences(steps) == made.sequences(40)
    assert other.for_vocabulary(10_000).batch_stages == other.batch_stages


def test_a_decayed_end_point_is_its_stem_and_then_its_decay() -> None:
    stem = proxy_tiny()
    branch = stem.decayed(after=140, decay_steps=28, final=1e-4)
    assert (branch.steps, branch.decay_steps, branch.schedule) == (168, 28, "wsd")
    assert branch.evaluation_steps == (80, 110, 140, 168)
    assert branch.tokens_before(141) == stem.tokens_before(141)
    for bad in (0, 19, 251):
        with pytest.raises(InvalidRecipe, match="peak rate"):
            stem.decayed(after=bad, decay_steps=10)
    with pytest.raises(InvalidRecipe, match="peak rate"):
        tinyllama_1b().decayed(after=5000, decay_steps=10)


def test_the_target_is_about_four_proxies_in_parameters_and_tokens() -> None:
    small, large = proxy_tiny(), target_small()
    assert 3 < large.architecture.parameters / small.architecture.parameters < 5
    assert 3 < large.tokens / small.tokens < 5
    assert small.schedule == large.schedule == "constant"
    assert small.warmup_steps <= small.evaluation_steps[0]


@pytest.mark.parametrize(
    "change",
    [
        {"evaluation_steps": ()},
        {"evaluation_steps": (0, 10)},
        {"evaluation_steps": (20, 10)},
        {"evaluation_steps": (10, 10)},
        {"evaluation_steps": (10**9,)},
        {"steps": 0},
        {"steps": 250.5},
        {"batch_sequences": 0},
        {"evaluation_tokens": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"final_learning_rate": 1e-3},  # of a constant rate
        {"schedule": "cosine", "final_learning_rate": -1e-5},
        {"schedule": "linear"},
        {"schedule": "wsd"},  # without a decay
        {"schedule": "wsd", "decay_steps": 231},  # beside 20 of warm-up in 250
        {"decay_steps": 10},  # of a constant rate
        {"warmup_steps": -1},
        {"warmup_steps": 251},
        {"base_width": 0},
        {"betas": (0.9, 1.0)},
        {"betas": (-0.1, 0.9)},
        {"weight_decay": -0.1},
        {"gradient_clip": 0.0},
        {"batch_stages": ((1, 8),)},
        {"batch_stages": ((10, 8), (10, 16))},
        {"batch_stages": ((20, 8), (10, 16))},
        {"batch_stages": ((251, 8),)},
        {"batch_stages": ((10, 0),)},
        {"precision": "float16"},
        {"moments": "float16"},
        {"moments": "bfloat16", "betas": (0.9, 0.999)},  # would stand still
        {"on_anomaly": "ignore"},
        {"spike_nats": 0.0},
    ],
)
def test_numbers_that_contradict_each_other_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidRecipe):
        replace(proxy_tiny(), **change)


def test_a_final_rate_equal_to_the_peak_is_refused() -> None:
    # TinyLlama's first weeks (its issue 27): a cosine that never fell.
    with pytest.raises(InvalidRecipe, match=r"below the peak of 0\.0004, not 0\.0004"):
        replace(tinyllama_1b(), final_learning_rate=4e-4)


def test_maximal_update_needs_a_head_of_its_own() -> None:
    tied = replace(proxy_tiny().architecture, tied_head=True)
    with pytest.raises(InvalidRecipe, match="untied head"):
        replace(proxy_tiny(), architecture=tied, base_width=32)


@pytest.mark.parametrize(("width", "heads", "kv_heads"), [(65, 4, 2), (60, 4, 2), (64, 4, 3)])
def test_heads_must_divide_evenly(width: int, heads: int, kv_heads: int) -> None:
    with pytest.raises(InvalidRecipe):
        Architecture(1, width, heads, kv_heads, 8, 16, 4, True)


def test_another_length_is_evaluated_at_its_quarters() -> None:
    longer = proxy_tiny().lasting(1000)
    assert longer.evaluation_steps == (250, 500, 750, 1000)
    assert longer.tokens == 1000 * proxy_tiny().tokens_per_step
    with pytest.raises(InvalidRecipe, match="at least 1 step"):
        proxy_tiny().lasting(0)


@pytest.mark.parametrize("change", [{"layers": 0}, {"rope_theta": 0.0}, {"vocabulary": 2.5}])
def test_a_shape_must_have_sizes(change: dict[str, float]) -> None:
    with pytest.raises(InvalidRecipe):
        replace(proxy_tiny().architecture, **change)  # type: ignore[arg-type]


def test_a_recipe_widens_for_a_larger_vocabulary_only() -> None:
    assert proxy_tiny().for_vocabulary(1000) == proxy_tiny()
    assert proxy_tiny().for_vocabulary(5000).architecture.vocabulary == 5000


def test_a_recipe_in_another_shape_is_the_same_but_for_the_sizes_given() -> None:
    made = proxy_tiny()
    other = made.in_shape(layers=7, ffn_width=99, tied_head=True)
    assert other == replace(
        made, architecture=replace(made.architecture, layers=7, ffn_width=99, tied_head=True)
    )
    assert made.in_shape() == made
    with pytest.raises(InvalidRecipe, match="must give an even whole head size"):
        made.in_shape(width=made.architecture.width + 1)
    with pytest.raises(InvalidRecipe, match="base_width needs an untied head"):
        replace(made, base_width=32).in_shape(tied_head=True)


@pytest.mark.parametrize(
    ("rows", "vocabulary", "expected"),
    [
        (1024, 1024, 1024),
        (1030, 1024, 1030),
        (1000, 1024, 2048),  # too few for the tokens: the recipe stays, and the weights are refused
        (2048, 1024, 2048),
        (4096, 1024, 2048),
        (2100, 2100, 2100),
        (2050, 2100, 2100),
    ],
)
def test_a_recipe_takes_the_tables_of_weights_that_hold_every_token(
    rows: int, vocabulary: int, expected: int
) -> None:
    made = proxy_tiny().for_tables(rows, vocabulary=vocabulary)
    assert made == replace(
        proxy_tiny(), architecture=replace(proxy_tiny().architecture, vocabulary=expected)
    )


@pytest.mark.parametrize(
    ("name", "layers", "width", "parameters"),
    [
        ("pangu_pi_1b_pro", 21, 1792, 1_002_270_976),
        ("pangu_pi_1b_released", 20, 1792, 942_844_672),
        ("pangu_pi_1_5b_pro", 22, 2048, 1_332_606_976),
    ],
)
def test_pangu_pi_pros_shapes_have_their_exact_counts(
    name: str, layers: int, width: int, parameters: int
) -> None:
    made = recipe(name)
    shape = made.architecture
    assert (shape.layers, shape.width, shape.vocabulary) == (layers, width, 48_000)
    # Four square matrices and three of the FFN a block, two gains, both tables, the last gain.
    block = 4 * width**2 + 3 * width * shape.ffn_width + 2 * width
    assert shape.parameters == parameters == layers * block + 2 * 48_000 * width + width
    assert made.betas == (0.9, 0.95)
    assert made.final_learning_rate == pytest.approx(made.learning_rate / 10)
    if name != "pangu_pi_1b_released":
        assert shape.ffn_width == round(2.77 * width)
        assert made.tokens == pytest.approx(1.6e12, rel=1e-5)
        assert made.tokens_per_step == pytest.approx(2e6, rel=0.05)


def test_a_rate_follows_its_batch() -> None:
    def rate(tokens: float, exponent: float) -> float:
        return rate_for_batch(1e-4, base_tokens=1e6, tokens=tokens, exponent=exponent)

    assert rate(1e6, 0.5) == 1e-4
    assert rate(2e6, 1.0) == pytest.approx(2e-4)  # the paper's final training
    assert rate_for_batch(1e-4, base_tokens=1e6, tokens=2.25e6) == pytest.approx(1.5e-4)
    assert rate(0.25e6, 0.25) == pytest.approx(1e-4 / 2**0.5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokens": 4e6}, "below 4,000,000"),
        ({"base_tokens": 0}, "1 to below"),
        ({"tokens": float("nan")}, "a batch has nan"),
        ({"exponent": 0.2}, "from 0.25 to 1"),
        ({"exponent": 1.5}, "take 0.5"),
        ({"learning_rate": 0.0}, "above 0"),
    ],
)
def test_the_batchs_rule_is_refused_outside_its_range(change: dict[str, float], said: str) -> None:
    given = {"learning_rate": 1e-4, "base_tokens": 1e6, "tokens": 2e6, **change}
    with pytest.raises(InvalidRecipe, match=said):
        rate_for_batch(given.pop("learning_rate"), **given)
