"""Which of the sequences that a round read the next one reads again.

    p_i = exp(l_i) / sum_j exp(l_j),   N_0 = share * N draws without replacement

l is the mean loss, in nats per token, of a sequence, or of a batch where batches are drawn. One
draw after the other from what is left, each by p, is the same as taking the N_0 largest of
l_i + g_i with g_i of the standard Gumbel distribution; so losses are never exponentiated, and
nothing overflows. At a share of 0.5 what is drawn is far flatter than p: each is drawn with a
probability near 1/2, a little more where the loss is higher.

A domain whose text is harder is drawn more often, so that the next round's mixture moves away
from the solved one. With `keep_proportions` each domain gives `share` of its sequences, however
hard they are; without, the drift is told.

Sources: YuchuanTian/RethinkTinyLM, README (p, without replacement); Gumbel top-k: Vieira 2014,
Kool et al., arXiv 1903.06059.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixlab.errors import InvalidRecipe
from mixlab.rounds.plan import Unit, check_share, check_unit
from mixlab.rounds.scores import Integers, Scores


@dataclass(frozen=True)
class Draw:
    """The windows of each domain that were drawn, and what that does to the mixture."""

    windows: Mapping[str, Integers]  # rising, shape (window,); every domain that was read
    read: Mapping[str, float]  # shares of the sequences that were scored
    drawn: Mapping[str, float]  # shares of those that were drawn
    loss_read_nats: float  # mean loss of what was scored
    loss_drawn_nats: float  # and of what was drawn

    @property
    def drift(self) -> float:
        """How far the shares moved: half the sum of their changes, from 0 to 1."""
        return sum(abs(self.drawn[name] - self.read[name]) for name in self.read) / 2

    def told(self) -> dict[str, Any]:
        """All but the windows, JSON-ready."""
        return {
            "read": dict(self.read),
            "drawn": dict(self.drawn),
            "drift": self.drift,
            "loss_read_nats": self.loss_read_nats,
            "loss_drawn_nats": self.loss_drawn_nats,
        }


def draw(
    scores: Scores,
    share: float,
    *,
    seed: int,
    keep_proportions: bool = True,
    unit: Unit = "sequence",
) -> Draw:
    """Draw a share of the sequences, the same for a seed; a window read twice counts once.

    With unit "batch" whole batches are drawn, as in the paper; their mixture is that of all
    batches, so `keep_proportions` says nothing then.

    Of each domain, or of all, at least one is drawn, and of several not all.

    Raises InvalidRecipe for a share that is not between 0 and 1, an unknown unit, and a loss that
    is no finite number.
    """
    check_share(share)
    check_unit(unit)
    bad = np.flatnonzero(~np.isfinite(scores.loss_nats))
    if len(bad):
        raise InvalidRecipe(
            f"The loss of {len(bad)} of {len(scores)} sequences is no number, first in step "
            f"{scores.step[bad[0]]}; the round's model can't score, train it again."
        )
    rng = np.random.Generator(np.random.PCG64(seed))
    if unit == "batch":
        chosen = _of_batches(scores, share, rng)
    elif keep_proportions:
        chosen = _of_each_domain(scores, share, rng)
    else:
        chosen = _largest(scores.loss_nats, _count(share, len(scores)), rng)
    return _summed_up(scores, chosen)


def _largest(losses: np.ndarray, count: int, rng: np.random.Generator) -> Integers:
    """`count` places drawn one after the other without replacement, p = softmax(losses)."""
    keys = losses + rng.gumbel(size=len(losses))
    return np.sort(np.argpartition(-keys, count - 1)[:count])


def _of_each_domain(scores: Scores, share: float, rng: np.random.Generator) -> Integers:
    parts = []
    for i in np.unique(scores.domain):
        here = np.flatnonzero(scores.domain == i)
        parts.append(here[_largest(scores.loss_nats[here], _count(share, len(here)), rng)])
    return np.sort(np.concatenate(parts))


def _of_batches(scores: Scores, share: float, rng: np.random.Generator) -> Integers:
    steps, batch, sizes = np.unique(scores.step, return_inverse=True, return_counts=True)
    losses = np.bincount(batch, weights=scores.loss_nats) / sizes
    return np.flatnonzero(np.isin(batch, _largest(losses, _count(share, len(steps)), rng)))


def _count(share: float, of: int) -> int:
    """How many of so many are drawn: at least one, and not all of several."""
    return min(max(1, round(share * of)), max(1, of - 1))


def _summed_up(scores: Scores, chosen: Integers) -> Draw:
    windows = {}
    for i in np.unique(scores.domain):
        here = chosen[scores.domain[chosen] == i]
        windows[scores.domains[i]] = np.unique(scores.window[here])
    return Draw(
        windows=windows,
        read=_shares(scores, np.arange(len(scores))),
        drawn=_shares(scores, chosen),
        loss_read_nats=float(scores.loss_nats.mean()),
        loss_drawn_nats=float(scores.loss_nats[chosen].mean()),
    )


def _shares(scores: Scores, chosen: Integers) -> dict[str, float]:
    counts = np.bincount(scores.domain[chosen], minlength=len(scores.domains))
    total = counts.sum()
    return {
        name: float(count / total)
        for name, count in zip(scores.domains, counts.tolist(), strict=True)
    }
