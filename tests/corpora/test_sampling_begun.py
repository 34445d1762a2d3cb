"""A sampler that begins within a stream reads on where the run before it has ended."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlab.corpora.sampling import Sampler
from mixlab.errors import InvalidRecipe
from mixlab.mixture import Mixture
from mixlab.schedules import MixtureSchedule
from tests.corpora.schedule_makers import NAMES, schedules
from tests.corpora.test_sampling_schedules import CONTEXT, SPACING, Stream


def sampler(
    schedule: MixtureSchedule | Mixture,
    *,
    batch: int,
    first_token: int = 0,
    max_epochs: float | None = None,
    seed: int = 3,
) -> Sampler:
    streams = {n: Stream((30 + i) * CONTEXT + 1, SPACING * i) for i, n in enumerate(NAMES)}
    return Sampler(
        streams, schedule, context=CONTEXT, batch_sequences=batch, seed=seed,
        max_epochs=max_epochs, first_token=first_token,
    )  # fmt: skip


def rows(made: Sampler, steps: int) -> np.ndarray:
    return np.concatenate([made.batch(step) for step in range(steps)])


@given(
    schedule=schedules(), sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    steps=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)  # fmt: skip
@settings(deadline=None, max_examples=25)
def test_two_runs_after_one_another_read_what_one_long_run_reads(
    schedule: MixtureSchedule, sizes: tuple[int, int], steps: tuple[int, int]
) -> None:
    first = sampler(schedule, batch=sizes[0])
    read = first.tokens_before(steps[0])
    second = sampler(schedule, batch=sizes[1], first_token=read)
    whole = sampler(schedule, batch=1)
    total = (read + second.tokens_before(steps[1])) // CONTEXT
    np.testing.assert_array_equal(
        np.concatenate([rows(first, steps[0]), rows(second, steps[1])]), rows(whole, total)
    )
    parts = first.consumed(0, steps[0]), second.consumed(0, steps[1])
    assert {n: parts[0][n] + parts[1][n] for n in parts[0]} == whole.consumed(0, total)
    where = [
        (slot.domain, slot.epoch, slot.window)
        for made, count in ((first, steps[0]), (second, steps[1]))
        for step in range(count)
        for slot in made.placements(step)
    ]
    assert len(set(where)) == total, "no window comes twice in an epoch"


def test_epochs_and_their_limit_are_those_of_the_whole_stream() -> None:
    alone = Mixture({NAMES[0]: 1.0})  # 30 windows an epoch
    read = 20 * CONTEXT
    made = sampler(alone, batch=5, first_token=read, max_epochs=2)
    assert made.epochs(0, 4)[NAMES[0]] == [
        {"epoch": 0, "tokens": 10 * CONTEXT}, {"epoch": 1, "tokens": 10 * CONTEXT},
    ]  # fmt: skip
    assert made.last_step(100) == (2 * 30 - 20) // 5
    assert (made.first_token, made.tokens_before(4)) == (read, 20 * CONTEXT)


@pytest.mark.parametrize("token", [-CONTEXT, 1, 5 * CONTEXT + 3])
def test_a_beginning_within_a_sequence_is_refused(token: int) -> None:
    with pytest.raises(InvalidRecipe, match="multiple of its context of 8 tokens"):
        sampler(Mixture({NAMES[0]: 1.0}), batch=1, first_token=token)
