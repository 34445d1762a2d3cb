"""Targets are scored by their own predictions and intervals, in whatever order tables have them."""

from dataclasses import replace

import numpy as np
import pytest

from mixlab.fitting import fit
from mixlab.laws import BIMIX
from mixlab.scoring import score
from tests.synthetic import mixtures, observe


def test_a_target_s_score_is_the_same_whichever_others_are_in_the_table() -> None:
    seen = observe(mixtures(3, 12), noise=0.003)
    found = fit(BIMIX, seen)
    whole = score(lambda: found, seen, law="bimix")
    back = replace(
        seen, targets=tuple(reversed(seen.targets)), losses_nats=seen.losses_nats[:, ::-1]
    )
    assert score(lambda: found, back, law="bimix").targets == whole.targets
    last = replace(seen, targets=seen.targets[2:], losses_nats=seen.losses_nats[:, 2:])
    assert score(lambda: found, last, law="bimix").targets == {"d2": whole.targets["d2"]}


@pytest.mark.parametrize(("part", "covered"), [(0.99, 1.0), (1.01, 0.0), (-0.99, 1.0)])
def test_what_lies_within_the_interval_is_covered_and_nothing_else(
    part: float, covered: float
) -> None:
    seen = observe(mixtures(3, 12), noise=0.003)
    found = fit(BIMIX, seen)
    widths = found.interval_widths(seen.proportions, seen.steps)
    losses = found.losses(seen.proportions, seen.steps) * np.exp(part * widths)
    scores = score(lambda: found, replace(seen, losses_nats=losses), law="bimix")
    assert scores.mean.coverage95 == covered
