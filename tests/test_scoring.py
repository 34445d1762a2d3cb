"""Scores are those of their formulas, over the rows that can be predicted."""

from dataclasses import replace

import numpy as np
import pytest

import mixlab
from mixlab.errors import InvalidTable
from mixlab.fitting import Fit, fit
from mixlab.laws import BIMIX
from mixlab.runs import Observations
from mixlab.scoring import Score, score
from tests.synthetic import mixtures, observe


@pytest.fixture(scope="module")
def tables() -> tuple[Observations, Observations]:
    whole = observe(mixtures(3, 12), noise=0.003)
    first = np.arange(len(whole)) < 48
    return whole.take(first), whole.take(~first)


@pytest.fixture(scope="module")
def found(tables: tuple[Observations, Observations]) -> Fit:
    return fit(BIMIX, tables[0])


def test_scores_are_those_of_their_formulas(
    found: Fit, tables: tuple[Observations, Observations]
) -> None:
    test = tables[1]
    scores = score(lambda: found, test, law="bimix")
    predicted = found.losses(test.proportions, test.steps)
    for column, name in enumerate(test.targets):
        one, losses = scores.targets[name], test.losses_nats[:, column]
        misses = predicted[:, column] - losses
        assert one.mre_percent == pytest.approx(100 * np.mean(np.abs(misses) / losses))
        total = np.sum((losses - losses.mean()) ** 2)
        assert one.r2 == pytest.approx(1 - np.sum(misses**2) / total)
        ranks = np.corrcoef(np.argsort(np.argsort(losses)),
                            np.argsort(np.argsort(predicted[:, column])))  # fmt: skip
        assert one.spearman == pytest.approx(ranks[0, 1])
    assert scores.mean.mre_percent == pytest.approx(
        np.mean([one.mre_percent for one in scores.targets.values()])
    )


def test_losses_that_were_not_measured_do_not_count(
    found: Fit, tables: tuple[Observations, Observations]
) -> None:
    losses = tables[1].losses_nats.copy()
    losses[:5, 0], losses[:, 1] = np.nan, np.nan
    scores = score(lambda: found, replace(tables[1], losses_nats=losses), law="bimix")
    assert scores.targets["d0"].n == len(losses) - 5
    assert scores.targets["d1"] == Score(None, None, None, 0, None)
    assert scores.mean.mre_percent is not None


def test_equal_losses_have_neither_ranks_nor_r2(
    found: Fit, tables: tuple[Observations, Observations]
) -> None:
    losses = np.full_like(tables[1].losses_nats, 3.0)
    one = score(lambda: found, replace(tables[1], losses_nats=losses), law="bimix").targets["d0"]
    assert one.spearman is None
    assert one.r2 is None
    assert one.mre_percent is not None


def test_other_sizes_are_noted_where_no_law_sees_them(
    tables: tuple[Observations, Observations],
) -> None:
    small, large = (replace(rows, params=np.full(len(rows), size))
                    for rows, size in zip(tables, (1e6, 6e7), strict=True))  # fmt: skip
    scores = score(lambda: fit(BIMIX, small), large, law="bimix")
    assert any("60,000,000" in note and "ranks" in note for note in scores.notes)


def test_a_fit_in_tokens_needs_tokens(tables: tuple[Observations, Observations]) -> None:
    train, test = tables
    in_tokens = fit(BIMIX, train.in_tokens())
    with pytest.raises(InvalidTable, match="tokens"):
        score(lambda: in_tokens, replace(test, tokens=np.full(len(test), np.nan)), law="bimix")


def test_a_table_of_tokens_alone_is_predicted_in_the_fits_steps_or_not_at_all() -> None:
    seen, other = observe(mixtures(3, 8)), observe(mixtures(3, 5, seed=3))
    alone = replace(other, steps=other.tokens)
    expected = mixlab.score(seen, other, law="bimix")
    assert mixlab.score(seen, alone, law="bimix").mean == expected.mean
    untold = replace(seen, tokens=np.full(len(seen), np.nan))
    with pytest.raises(InvalidTable, match="counts steps, the table to predict tokens alone"):
        mixlab.score(untold, alone, law="bimix")
    late = replace(other, steps=10 * other.steps, tokens=10 * other.tokens)
    notes = mixlab.score(seen, late, law="bimix").notes
    assert any("outside those fitted" in note for note in notes)
