"""Everything that is compared, under one face: each law of the library, `auto`, each peer.

A law that sees no model size is fitted at each size by itself where there are several. Laws that
are undefined at a share of 0 read it as `SHARE_FLOOR`, on every table that has such shares.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from benchmarks.laws.peers import PEERS
from benchmarks.laws.scores import Prediction
from mixlab.choosing import fit_auto
from mixlab.fitting import Fit, fit
from mixlab.laws import LAWS, Law
from mixlab.runs import Observations

SHARE_FLOOR = 1e-3  # the last digit of RegMix's rounded shares
AUTO = "auto"


class Fitted(Protocol):
    """What predicts."""

    def predict(self, test: Observations) -> Prediction:
        """Losses of the rows' mixtures, sizes and steps."""


class Contender(Protocol):
    """What is fitted."""

    def can(self, train: Observations, test: Observations) -> str | None:
        """Why it can't be fitted on the one and predict the other, or None."""

    def fit(self, train: Observations) -> Fitted:
        """The fit to training rows."""


def contenders() -> dict[str, Contender]:
    """Every contender by name: `auto` first, then peers, then each law."""
    ours: dict[str, Contender] = {name: OfLaw(name) for name in LAWS}
    return {AUTO: OfLaw(AUTO)} | PEERS | ours


@dataclass(frozen=True)
class OfLaw:
    """A law of the library, or `auto`."""

    name: str

    @property
    def law(self) -> Law | None:
        """The law, None for `auto`."""
        return LAWS.get(self.name)

    def can(self, train: Observations, test: Observations) -> str | None:
        """Why it can't be fitted on the one and predict the other, or None."""
        law = self.law
        if law is None:
            return None
        if not law.needs_mixture:
            return "sees no mixture"
        if law.needs_params and np.isnan(train.params).any():
            return "needs each run's size"
        if law.needs_unique_tokens and np.isnan(train.unique_tokens).any():
            return "needs the unique tokens of each run"
        if not law.needs_params and set(_sizes(test)) - set(_sizes(train)):
            return "sees no size"
        return None

    def fit(self, train: Observations) -> "LawFits":
        """One fit, or one for each size."""
        if self.law is None:
            return LawFits({None: fit_auto(train, profiles=False)})
        if self.law.needs_params:
            return LawFits({None: self._one(train.in_tokens())})
        sizes = _sizes(train)
        return LawFits({size: self._one(train.take(sizes == size)) for size in np.unique(sizes)})

    def _one(self, train: Observations) -> Fit:
        assert self.law is not None
        zeros = not self.law.zero_shares and bool(np.any(train.proportions <= 0))
        return fit(self.law, train, share_floor=SHARE_FLOOR if zeros else None, profiles=False)


@dataclass(frozen=True)
class LawFits:
    """A law's fits: one a size, or under None one for all."""

    by_size: dict[float | None, Fit]

    def predict(self, test: Observations) -> Prediction:
        """Each row by the fit of its size, at its step."""
        losses = np.full(test.losses_nats.shape, np.nan)
        widths = np.full(test.losses_nats.shape, np.nan)
        sizes = _sizes(test)
        for size in np.unique(sizes):
            found = self.by_size[None] if None in self.by_size else self.by_size[size]
            rows = np.flatnonzero(sizes == size)
            steps = (test.tokens if found.step_unit == "tokens" else test.steps)[rows]
            columns = [test.targets.index(name) for name in found.targets]
            at = (test.proportions[rows], steps)
            losses[np.ix_(rows, columns)] = found.losses(*at, params=size or None)
            widths[np.ix_(rows, columns)] = found.interval_widths(*at, params=size or None)
        return Prediction(losses, None if np.isnan(widths).all() else widths)


def _sizes(rows: Observations) -> np.ndarray:
    """Each row's model size, 0 where it is not told."""
    return np.nan_to_num(rows.params)
