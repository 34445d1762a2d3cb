"""Batches under schedules: true to the shares, counted exactly, whatever the steps."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlab.corpora.sampling import Sampler
from mixlab.corpora.turns import GOLDEN, UNIT, Turns
from mixlab.errors import DomainTooSmall, InvalidRecipe
from mixlab.mixture import Mixture
from mixlab.recipes import proxy_tiny
from mixlab.schedules import MixtureSchedule, Stage
from tests.corpora.schedule_makers import NAMES, schedules

CONTEXT = 8
SPACING = 1_000_000_000  # between the tokens of two domains


class Stream:
    """Tokens that name their own place, so that a batch shows what it read."""

    def __init__(self, length: int, first: int) -> None:
        self.length, self.first = length, first

    def __len__(self) -> int:
        return self.length

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        assert starts.min() >= 0
        assert starts.max() + length <= self.length
        return self.first + starts[:, None] + np.arange(length)


def sampler(
    schedule: MixtureSchedule | Mixture,
    *,
    batch: int = 5,
    seed: int = 0,
    stages: Sequence[tuple[int, int]] = (),
    windows: int = 30,
    max_epochs: float | None = None,
) -> Sampler:
    """Domains of 30, 31, ... windows and a tail that is no window."""
    streams = {
        name: Stream((windows + i) * CONTEXT + 1 + i, SPACING * i) for i, name in enumerate(NAMES)
    }
    return Sampler(
        streams, schedule, context=CONTEXT, batch_sequences=batch, seed=seed,
        batch_stages=stages, max_epochs=max_epochs,
    )  # fmt: skip


def domains_read(made: Sampler, steps: range) -> Counter[str]:
    """Tokens per domain, by looking at every batch."""
    read: Counter[str] = Counter()
    for step in steps:
        for first in made.batch(step)[:, 0] // SPACING:
            read[NAMES[first]] += CONTEXT
    return read


batch_stages = st.dictionaries(st.integers(2, 60), st.integers(1, 20), max_size=3).map(
    lambda found: tuple(sorted(found.items()))
)
seeds = st.integers(0, 2**32 - 1)


@given(schedule=schedules(), seed=seeds, stages=batch_stages, steps=st.tuples(
    st.integers(0, 80), st.integers(0, 80)))  # fmt: skip
@settings(deadline=None, max_examples=25)
def test_what_any_range_of_steps_consumed_is_what_its_batches_hold(
    schedule: MixtureSchedule,
    seed: int,
    stages: tuple[tuple[int, int], ...],
    steps: tuple[int, int],
) -> None:
    made, (first, last) = sampler(schedule, seed=seed, stages=stages), sorted(steps)
    consumed = made.consumed(first, last)
    assert Counter(consumed) == domains_read(made, range(first, last))
    assert sum(consumed.values()) == made.tokens_before(last) - made.tokens_before(first)


@given(schedule=schedules(), seed=seeds, step=st.integers(0, 150))
@settings(deadline=None, max_examples=25)
def test_each_sequence_takes_the_domain_that_its_point_and_its_shares_tell(
    schedule: MixtureSchedule, seed: int, step: int
) -> None:
    # Written once more from the formula: exact fractions are not needed to tell most points.
    turns = Turns(schedule, schedule.domains, context=CONTEXT, shift=seed)
    for k, found in enumerate(turns.domains_of(step * 5, 5), start=step * 5):
        point = ((seed + k * GOLDEN) % UNIT) / UNIT
        shares = schedule.shares(k * CONTEXT)
        ends = np.cumsum([shares[name] for name in schedule.domains])
        if np.abs(ends[:-1] - point).min(initial=1.0) > 1e-9:
            assert found == np.searchsorted(ends[:-1], point, side="right")


@given(schedule=schedules(longest=20_000_000), seed=seeds, step=st.integers(0, 10_000_000))
@settings(deadline=None, max_examples=20)
def test_what_is_consumed_stays_near_the_integral_of_the_schedule(
    schedule: MixtureSchedule, seed: int, step: int
) -> None:
    made = sampler(schedule, seed=seed)
    tokens = made.tokens_before(step)
    # What turns.py states: a few sequences a span, and on a ramp at most of the order of the
    # root of its length. A domain lies between two boundaries.
    allowed = 0.0
    for span in schedule.spans():
        if span.begin_tokens < tokens:
            ramp = span.before != span.after and span.end_tokens is not None
            length = min(span.end_tokens or tokens, tokens) - span.begin_tokens
            allowed += 14 + (1.5 * sqrt(length / CONTEXT) if ramp else 0)
    planned = schedule.planned(tokens)
    for name, found in made.consumed(0, step).items():
        assert abs(found - planned[name]) <= allowed * CONTEXT


def test_most_ramps_deviate_by_a_sequence_or_two() -> None:
    rng = np.random.default_rng(0)
    deviations = []
    for seed in range(200):
        before, after = (Mixture.of(NAMES[:3], rng.dirichlet(np.ones(3))) for _ in range(2))
        schedule = MixtureSchedule((Stage(before, CONTEXT), Stage(after, None, CONTEXT * 100_000)))
        made, step = sampler(schedule, seed=seed, batch=10), int(rng.integers(5000, 10_000))
        consumed, planned = made.consumed(0, step), schedule.planned(step * 10 * CONTEXT)
        deviations += [abs(consumed[name] - planned[name]) / CONTEXT for name in NAMES[:3]]
    assert np.median(deviations) < 2
    assert np.quantile(deviations, 0.98) < 20


def test_a_ramp_of_any_length_is_counted_at_once() -> None:
    """3T tokens in ramps of 1.5T: 1.4 million steps each, and no table of them."""
    half = 1_500 * 10**9
    schedule = MixtureSchedule(
        (
            Stage(Mixture({"d0": 1.0}), 1),
            Stage(Mixture({"d1": 1.0}), half, half),
            Stage(Mixture({"d2": 1.0}), None, half),
        )
    )
    made = sampler(schedule, batch=1024)
    steps = 2 * half // (1024 * CONTEXT)
    consumed = made.consumed(0, steps)
    assert sum(consumed.values()) == steps * 1024 * CONTEXT
    assert consumed["d1"] == pytest.approx(half, rel=1e-6)
    assert consumed["d0"] == pytest.approx(half / 2, rel=1e-6)
    assert made.batch(steps - 1).shape == (1024, CONTEXT + 1)


@given(
    schedule=schedules(), seed=seeds, one=batch_stages, other=batch_stages, size=st.integers(1, 9)
)
@settings(deadline=None, max_examples=20)
def test_the_size_of_batches_cuts_the_same_sequences_elsewhere(
    schedule: MixtureSchedule,
    seed: int,
    one: tuple[tuple[int, int], ...],
    other: tuple[tuple[int, int], ...],
    size: int,
) -> None:
    first = sampler(schedule, seed=seed, stages=one)
    second = sampler(schedule, seed=seed, stages=other, batch=size)
    rows = [np.concatenate([made.batch(step) for step in range(25)]) for made in (first, second)]
    shared = min(map(len, rows))
    np.testing.assert_array_equal(rows[0][:shared], rows[1][:shared])


@given(schedule=schedules(), seed=seeds, steps=st.permutations(range(12)), stages=batch_stages)
@settings(deadline=None, max_examples=15)
def test_the_order_of_calls_changes_nothing(
    schedule: MixtureSchedule, seed: int, steps: list[int], stages: tuple[tuple[int, int], ...]
) -> None:
    made = sampler(schedule, seed=seed, stages=stages)
    found = {}
    for step in steps:
        made.consumed(step, step + 3)
        found[step] = made.batch(step)
    fresh = sampler(schedule, seed=seed, stages=stages)
    assert all(np.array_equal(found[step], fresh.batch(step)) for step in range(12))


def test_the_same_domain_order_continues_over_a_border() -> None:
    """A stage's border moves shares, not places: d0 goes on where it was."""
    staged = MixtureSchedule(
        (Stage(Mixture({"d0": 0.5, "d1": 0.5}), 777), Stage(Mixture({"d0": 0.9, "d2": 0.1})))
    )
    read = [
        [row for step in range(30) for row in made.batch(step)[:, 0].tolist() if row < SPACING]
        for made in (sampler(staged), sampler(Mixture({"d0": 1.0})))
    ]
    assert read[0] == read[1][: len(read[0])]


@given(stages=batch_stages, step=st.integers(0, 100))
def test_steps_and_tokens_are_the_recipes(stages: tuple[tuple[int, int], ...], step: int) -> None:
    rising = tuple((first, 16 + 8 * i) for i, (first, _) in enumerate(stages, start=1))
    chosen = replace(proxy_tiny(), batch_stages=rising)
    streams = {"d0": Stream(10_000, 0)}
    made = Sampler(
        streams, Mixture({"d0": 1.0}), seed=0, context=chosen.architecture.context,
        batch_sequences=chosen.batch_sequences, batch_stages=chosen.batch_stages,
    )  # fmt: skip
    assert made.sequences(step) == chosen.sequences(step + 1)
    assert made.tokens_before(step) == chosen.tokens_before(step + 1)


@pytest.mark.parametrize("seed", [7, np.int64(7)])
def test_runs_of_one_mixture_read_what_the_first_version_read(seed: int) -> None:
    """Recorded before there were schedules; a run resumed or audited later relies on it."""
    streams = {"code": Stream(700, 0), "law": Stream(400, 10_000), "talk": Stream(5000, 20_000)}
    made = Sampler(
        streams, Mixture({"code": 0.2, "law": 0.5, "talk": 0.3}), context=CONTEXT,
        batch_sequences=12, seed=seed,
    )  # fmt: skip
    assert made.batch(0)[:, 0].tolist() == [
        10040, 272, 10256, 10360, 20152, 10048, 616, 23632, 10024, 232, 10192, 10144,
    ]  # fmt: skip
    assert made.batch(1000)[:, 0].tolist() == [
        24816, 10256, 408, 20752, 10064, 23032, 10264, 552, 23168, 10320, 24, 10016,
    ]  # fmt: skip
    assert made.consumed(3, 1000) == {"code": 19144, "law": 47856, "talk": 28712}


# ---- readers that share a step


@given(
    schedule=schedules(), seed=seeds, step=st.integers(0, 60), stages=batch_stages,
    owners=st.lists(st.integers(0, 4), min_size=20, max_size=20),
)  # fmt: skip
@settings(deadline=None, max_examples=25)
def test_any_split_among_readers_makes_up_the_batch(
    schedule: MixtureSchedule,
    seed: int,
    step: int,
    stages: tuple[tuple[int, int], ...],
    owners: list[int],
) -> None:
    whole = sampler(schedule, seed=seed, stages=stages).batch(step)
    found = np.full_like(whole, -1)
    for rank in range(5):
        rows = np.flatnonzero(np.array(owners[: len(whole)]) == rank)
        part = sampler(schedule, seed=seed, stages=stages).batch(step, rows)
        np.testing.assert_array_equal(part, whole[rows])
        assert (found[rows] == -1).all()
        found[rows] = part
    np.testing.assert_array_equal(found, whole)


@pytest.mark.parametrize("rows", [slice(1, 4), slice(None, None, 2), slice(4, 4), [4, 0], [-1]])
def test_rows_are_chosen_as_an_arrays_are(rows: slice | list[int]) -> None:
    made = sampler(Mixture({"d0": 0.5, "d1": 0.5}))
    np.testing.assert_array_equal(made.batch(3, rows), made.batch(3)[rows])


def test_rows_that_a_step_lacks_are_refused() -> None:
    with pytest.raises(IndexError):
        sampler(Mixture({"d0": 1.0})).batch(0, [5])


# ---- epochs


@given(schedule=schedules(), seed=seeds, steps=st.tuples(st.integers(0, 90), st.integers(0, 90)),
       windows=st.integers(1, 12))  # fmt: skip
@settings(deadline=None, max_examples=20)
def test_epochs_of_any_range_are_those_of_reading_it(
    schedule: MixtureSchedule, seed: int, steps: tuple[int, int], windows: int
) -> None:
    made, (first, last) = sampler(schedule, seed=seed, windows=windows), sorted(steps)
    read: Counter[str] = Counter()
    expected: dict[str, Counter[int]] = {name: Counter() for name in schedule.domains}
    for step in range(last):
        for number in made.batch(step)[:, 0] // SPACING:
            name = NAMES[number]
            if step >= first:
                expected[name][read[name] // (windows + number)] += CONTEXT
            read[name] += 1
    found = made.epochs(first, last)
    assert {
        name: {entry["epoch"]: entry["tokens"] for entry in entries}
        for name, entries in found.items()
    } == expected
    assert {name: sum(e["tokens"] for e in entries) for name, entries in found.items()} == (
        made.consumed(first, last)
    )


@given(schedule=schedules(), seed=seeds, windows=st.integers(1, 40),
       max_epochs=st.sampled_from([0.5, 1, 2, 3.7]), steps=st.integers(0, 60))  # fmt: skip
@settings(deadline=None, max_examples=25)
def test_a_run_ends_before_the_first_step_that_goes_beyond_the_epochs_allowed(
    schedule: MixtureSchedule, seed: int, windows: int, max_epochs: float, steps: int
) -> None:
    limited = sampler(schedule, seed=seed, windows=windows, max_epochs=max_epochs)
    free = sampler(schedule, seed=seed, windows=windows)
    read: Counter[str] = Counter()
    expected = None
    for step in range(steps):
        read += domains_read(free, range(step, step + 1))
        over = [
            name
            for i, name in enumerate(NAMES)
            if read[name] > max_epochs * (windows + i) * CONTEXT
        ]
        assert limited.beyond(step) == tuple(over)
        if over:
            expected = step
            break
        np.testing.assert_array_equal(limited.batch(step), free.batch(step))
    assert limited.last_step(steps) == expected
    if expected is not None:
        with pytest.raises(DomainTooSmall, match=r"more than .* epochs; stop before it"):
            limited.batch(expected)


def test_without_a_limit_no_step_is_the_last() -> None:
    assert sampler(Mixture({"d0": 1.0}), windows=1).last_step(10**9) is None


def test_exactly_the_epochs_allowed_are_allowed() -> None:
    whole = sampler(Mixture({"d0": 1.0}))
    step = next(n for n in range(1, 1000) if whole.consumed(0, n)["d0"] >= whole.epoch_tokens["d0"])
    read = whole.consumed(0, step)["d0"] / whole.epoch_tokens["d0"]
    limited = sampler(Mixture({"d0": 1.0}), max_epochs=read)
    assert limited.last_step(step) is None
    assert limited.last_step(step + 1) == step


@pytest.mark.parametrize("max_epochs", [0, -1, float("nan")])
def test_epochs_allowed_are_above_none(max_epochs: float) -> None:
    with pytest.raises(InvalidRecipe, match="max_epochs must be above 0"):
        sampler(Mixture({"d0": 1.0}), max_epochs=max_epochs)
