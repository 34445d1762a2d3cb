"""Which sequences are drawn: against torch.multinomial, and what holds for any losses."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlab.errors import InvalidRecipe
from mixlab.rounds.drawing import draw
from mixlab.rounds.scores import Scores

DOMAINS = ("code", "law", "web")


def scores(losses: list[float], domain: list[int], sequences: int = 4) -> Scores:
    """Each sequence another window; batches of so many."""
    count = len(losses)
    return Scores(
        DOMAINS,
        step=np.arange(count) // sequences + 1,
        domain=np.array(domain),
        window=np.arange(count),
        loss_nats=np.array(losses),
    )


def drawn_windows(found: Scores, share: float, seed: int, **how: object) -> frozenset[int]:
    windows = draw(found, share, seed=seed, **how).windows  # type: ignore[arg-type]
    return frozenset(int(one) for part in windows.values() for one in part)


def test_sets_are_drawn_as_often_as_multinomial_draws_them() -> None:
    """Two of four, 20,000 times: the frequency of each of the six pairs, both ways."""
    losses = [0.0, 0.5, 1.0, 2.5]
    found, times = scores(losses, [0] * 4), 20_000
    ours = [drawn_windows(found, 0.5, seed, keep_proportions=False) for seed in range(times)]
    p = torch.softmax(torch.tensor(losses), dim=0).repeat(times, 1)
    torch.manual_seed(0)
    theirs = [frozenset(row) for row in torch.multinomial(p, 2, replacement=False).tolist()]
    for pair in map(frozenset, combinations(range(4), 2)):
        one, other = (sum(each == pair for each in way) / times for way in (ours, theirs))
        # Four standard errors of the difference of two frequencies.
        assert one == pytest.approx(other, abs=4 * np.sqrt(2 * max(other, 1e-3) / times))


def test_batches_are_drawn_whole() -> None:
    found = scores([0.0] * 40 + [50.0] * 40, [0, 1, 2, 0] * 20)
    windows = drawn_windows(found, 0.5, 3, unit="batch")
    assert windows == frozenset(range(40, 80))  # e^50 times as probable


@settings(max_examples=60, deadline=None)
@given(
    data=st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(0, 2)), min_size=8, max_size=120),
    share=st.floats(0.05, 0.95),
    keep=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_any_losses_give_the_share_once_each(
    data: list[tuple[float, int]], share: float, keep: bool, seed: int
) -> None:
    found = scores([loss for loss, _ in data], [domain for _, domain in data])
    result = draw(found, share, seed=seed, keep_proportions=keep)
    again = draw(found, share, seed=seed, keep_proportions=keep)
    for name, windows in result.windows.items():
        assert len(np.unique(windows)) == len(windows)
        assert (windows == again.windows[name]).all()
        assert set(found.domain[windows]) <= {DOMAINS.index(name)}
    count = sum(map(len, result.windows.values()))
    domains = len(np.unique(found.domain)) if keep else 1
    assert abs(count - share * len(data)) <= domains
    assert sum(result.drawn.values()) == pytest.approx(1)
    assert 0 <= result.drift <= 1


def test_kept_proportions_stay_and_free_ones_follow_the_losses() -> None:
    rng = np.random.default_rng(1)
    domain = rng.integers(0, 3, 3000)
    found = scores(list(domain * 1.5 + rng.normal(size=3000)), list(domain))
    kept = draw(found, 0.5, seed=1)
    free = draw(found, 0.5, seed=1, keep_proportions=False)
    assert kept.drift < 0.001
    assert free.drift > 0.05
    assert free.drawn["web"] > free.read["web"]
    assert free.loss_drawn_nats > kept.loss_drawn_nats > kept.loss_read_nats


@pytest.mark.parametrize("share", [0, 1, -0.5, 1.5, float("nan")])
def test_a_share_of_nothing_or_everything_is_refused(share: float) -> None:
    with pytest.raises(InvalidRecipe, match="above 0 and below 1"):
        draw(scores([1.0, 2.0], [0, 1]), share, seed=0)


def test_losses_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(InvalidRecipe, match=r"1 of 3 sequences is no number, first in step 1"):
        draw(scores([1.0, float("nan"), 2.0], [0, 1, 2]), 0.5, seed=0)
    with pytest.raises(InvalidRecipe, match="is no number"):
        draw(scores([1.0, float("inf"), 2.0], [0, 1, 2]), 0.5, seed=0)


def test_of_several_not_all_are_drawn_and_of_one_that_one() -> None:
    found = scores([1.0, 2.0, 3.0, 1.0], [0, 0, 0, 1])
    windows = draw(found, 0.99, seed=0).windows
    assert {name: len(own) for name, own in windows.items()} == {"code": 2, "law": 1}


def test_a_batch_is_as_hard_as_its_mean_sequence() -> None:
    """However many it has: a batch of one hard sequence against one of eight easy ones."""
    found = scores([60.0, *[10.0] * 8], [0] * 9)
    uneven = replace(found, step=np.array([1, *[2] * 8]))
    assert drawn_windows(uneven, 0.5, 0, unit="batch") == {0}
