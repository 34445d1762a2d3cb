"""Batches: a pure function of the step, true to the mixture, every window once per epoch."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlab.corpora.sampling import Sampler, permuted
from mixlab.corpora.turns import floor_sum
from mixlab.errors import DomainTooSmall, InvalidMixture
from mixlab.mixture import Mixture

CONTEXT = 8


class Stream:
    """Tokens that name their own place, so that a batch shows what it read."""

    def __init__(self, length: int, first: int = 0) -> None:
        self.length, self.first = length, first

    def __len__(self) -> int:
        return self.length

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        assert starts.min() >= 0
        assert starts.max() + length <= self.length
        return self.first + starts[:, None] + np.arange(length)


SPACING = 1_000_000_000  # between the tokens of two domains


def sampler(
    mixture: Mixture, *, lengths: int | dict[str, int] = 100_000, batch: int = 32, seed: int = 0
) -> Sampler:
    sizes = lengths if isinstance(lengths, dict) else dict.fromkeys(mixture.domains, lengths)
    streams = {name: Stream(sizes[name], SPACING * i) for i, name in enumerate(mixture.domains)}
    return Sampler(streams, mixture, context=CONTEXT, batch_sequences=batch, seed=seed)


def counts_by_reading(made: Sampler, names: tuple[str, ...], steps: range) -> Counter[str]:
    """Tokens per domain, by looking at every batch."""
    read: Counter[str] = Counter()
    for step in steps:
        for first in made.batch(step)[:, 0] // SPACING:
            read[names[first]] += made.context
    return read


@st.composite
def mixtures(draw: st.DrawFn) -> Mixture:
    """Random mixtures of 1 to 50 domains, from even to very uneven, some with shares of 0."""
    weights = draw(st.lists(st.floats(0, 1), min_size=1, max_size=50).filter(lambda w: sum(w) > 0))
    power = draw(st.sampled_from([1, 3, 8]))
    powered = {f"d{i:02}": weight**power for i, weight in enumerate(weights)}
    if sum(powered.values()) == 0:
        powered["d00"] = 1.0
    return Mixture.normalised(powered)


@given(
    mixture=mixtures(),
    seed=st.integers(0, 2**32),
    steps=st.lists(st.integers(0, 50_000_000), min_size=2, max_size=2),
)
@settings(max_examples=200, deadline=None)
def test_any_range_of_steps_consumes_the_proportions_to_within_one_batch(
    mixture: Mixture, seed: int, steps: list[int]
) -> None:
    first, last = sorted(steps)
    made = sampler(mixture, batch=8, seed=seed)
    consumed = made.consumed(first, last)
    budget = (last - first) * 8 * CONTEXT
    assert sum(consumed.values()) == budget
    for name, share in mixture:
        assert abs(consumed.get(name, 0) - share * budget) <= 8 * CONTEXT


@given(mixture=mixtures(), seed=st.integers(0, 99), first=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_consumed_is_what_the_batches_hold(mixture: Mixture, seed: int, first: int) -> None:
    made = sampler(mixture, batch=5, seed=seed)
    read = counts_by_reading(made, mixture.domains, range(first, first + 4))
    consumed = made.consumed(first, first + 4)
    assert {name: count for name, count in consumed.items() if count} == dict(read)


def test_fifty_domains_stay_within_one_batch_at_every_step() -> None:
    shares = np.random.default_rng(3).dirichlet(np.full(50, 0.5))
    mixture = Mixture.of([f"d{i}" for i in range(50)], shares)
    made = sampler(mixture)
    for step in range(0, 2000, 7):
        consumed = made.consumed(0, step)
        budget = step * 32 * CONTEXT
        worst = max(abs(consumed[name] - share * budget) for name, share in mixture)
        assert worst <= 32 * CONTEXT


def test_batches_depend_on_mixture_seed_and_step_alone() -> None:
    mixture = Mixture({"code": 0.6, "law": 0.4})
    made = sampler(mixture, seed=1)
    forwards = [made.batch(step) for step in range(6)]
    backwards = [sampler(mixture, seed=1).batch(step) for step in reversed(range(6))]
    np.testing.assert_array_equal(forwards, backwards[::-1])
    assert not np.array_equal(forwards[0], sampler(mixture, seed=2).batch(0))


def test_another_seed_takes_the_domains_in_another_order() -> None:
    mixture = Mixture({"code": 0.6, "law": 0.4})
    one, other = (sampler(mixture, seed=seed).batch(0)[:, 0] >= SPACING for seed in (1, 2))
    assert not np.array_equal(one, other)


def test_the_order_in_which_domains_are_written_changes_nothing() -> None:
    streams = {"code": Stream(5000), "law": Stream(5000, SPACING)}
    one, other = (
        Sampler(streams, Mixture(shares), context=CONTEXT, batch_sequences=16, seed=0)
        for shares in ({"code": 0.7, "law": 0.3}, {"law": 0.3, "code": 0.7})
    )
    np.testing.assert_array_equal(one.batch(3), other.batch(3))


def test_a_domain_is_read_in_the_same_order_under_every_mixture() -> None:
    def order_of_law(share: float) -> list[int]:
        mixture = Mixture({"code": 1 - share, "law": share})
        tokens = np.concatenate([sampler(mixture).batch(step)[:, 0] for step in range(20)])
        return [int(token) for token in tokens if token >= SPACING]

    few, many = order_of_law(0.2), order_of_law(0.8)
    assert many[: len(few)] == few


def test_every_window_is_read_once_per_epoch_in_a_new_order() -> None:
    windows = 37
    made = sampler(Mixture({"only": 1.0}), lengths=windows * CONTEXT + 3, batch=windows)
    epochs = [made.batch(step)[:, 0].tolist() for step in range(4)]
    everything = [CONTEXT * i for i in range(windows)]
    assert all(sorted(epoch) == everything for epoch in epochs)
    assert len({tuple(epoch) for epoch in [*epochs, everything]}) == 5


def test_one_batch_may_hold_several_epochs_of_a_small_domain() -> None:
    made = sampler(Mixture({"tiny": 0.5, "big": 0.5}), lengths={"tiny": 20, "big": 9000}, batch=64)
    tiny = [int(token) for token in made.batch(0)[:, 0] if token < SPACING]
    pairs = [set(tiny[i : i + 2]) for i in range(0, len(tiny) - 1, 2)]
    assert len(pairs) > 10
    assert all(pair == {0, CONTEXT} for pair in pairs)  # two windows an epoch


def test_rows_are_a_window_and_its_last_target() -> None:
    batch = sampler(Mixture({"only": 1.0})).batch(0)
    assert batch.shape == (32, CONTEXT + 1)
    assert batch.dtype == np.int64
    assert (np.diff(batch, axis=1) == 1).all()
    assert (batch[:, 0] % CONTEXT == 0).all()


def test_a_domain_smaller_than_one_sequence_is_refused_unless_its_share_is_zero() -> None:
    sizes = {"small": CONTEXT, "big": 1000}
    with pytest.raises(DomainTooSmall, match=r"'small' has 8 training tokens.*share of 0"):
        sampler(Mixture({"small": 0.1, "big": 0.9}), lengths=sizes)
    left_out = sampler(Mixture({"small": 0.0, "big": 1.0}), lengths=sizes)
    assert left_out.consumed(0, 1) == {"big": 32 * CONTEXT}


def test_a_domain_without_text_is_named() -> None:
    with pytest.raises(InvalidMixture, match=r"names music, but the corpus has only code"):
        Sampler(
            {"code": Stream(1000)},
            Mixture({"code": 0.5, "music": 0.5}),
            context=CONTEXT,
            batch_sequences=4,
            seed=0,
        )


@given(
    terms=st.integers(0, 60),
    modulus=st.integers(1, 200),
    slope=st.integers(0, 500),
    offset=st.integers(-1000, 1000),
)
def test_the_floor_sum_is_the_sum(terms: int, modulus: int, slope: int, offset: int) -> None:
    expected = sum((slope * i + offset) // modulus for i in range(terms))
    assert floor_sum(terms, modulus, slope, offset) == expected


@given(size=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
@settings(max_examples=50, deadline=None)
def test_permuted_is_a_permutation(size: int, key: int) -> None:
    assert sorted(permuted(np.arange(size), size, key)) == list(range(size))


def test_permutations_look_random() -> None:
    """Mean displacement, fixed points and neighbours kept, against their expectations."""
    size, draws = 1000, 200
    orders = np.array([permuted(np.arange(size), size, key) for key in range(draws)])
    # A place goes everywhere equally often: its mean target has sd size / sqrt(12 * draws).
    means = orders.mean(axis=0)
    assert np.abs(means - (size - 1) / 2).max() < 5 * size / np.sqrt(12 * draws)
    fixed = (orders == np.arange(size)).sum()  # Poisson with mean 1 per permutation
    assert abs(fixed - draws) < 5 * np.sqrt(draws)
    kept = (np.diff(orders, axis=1) == 1).sum()
    assert abs(kept - draws) < 5 * np.sqrt(draws)
