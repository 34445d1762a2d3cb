"""How far a law's predictions can be trusted: errors on mixtures that it has not seen.

    held-out MRE = 100 * mean |predicted - observed| / observed   over left-out mixtures

Whole mixtures are left out, with all their steps and seeds: checkpoints of one run resemble
each other, so a split by row would flatter the law. Seed noise is the pooled standard
deviation between runs of the same mixture at the same step, which no law can beat.
"""

from dataclasses import dataclass, replace

import numpy as np

from mixlab.errors import TooFewMixtures
from mixlab.fitting import Fit, fit
from mixlab.laws import Inputs, Law
from mixlab.mixture import Array
from mixlab.runs import Observations

LEAVE_ONE_OUT_UP_TO = 12


@dataclass(frozen=True)
class Miss:
    """One prediction for a row that the fit had not seen."""

    run: str
    target: str
    step: float
    predicted_nats: float
    observed_nats: float


def heldout_mre_percent(
    law: Law,
    observations: Observations,
    *,
    folds: int | None = None,
    share_floor: float | None = None,
) -> dict[str, float]:
    """Mean relative error in percent per target over mixtures left out of the fit.

    Without `folds`, each of up to 12 mixtures is left out alone, more are left out in 10
    parts. Raises what `fit` raises; wherever all mixtures suffice for a fit, leaving each out
    alone does too.
    """
    misses = heldout_misses(law, observations, folds=folds, share_floor=share_floor)
    errors: dict[str, list[float]] = {}
    for miss in misses:
        relative = abs(miss.predicted_nats - miss.observed_nats) / miss.observed_nats
        errors.setdefault(miss.target, []).append(relative)
    return {target: 100 * float(np.mean(found)) for target, found in errors.items()}


def heldout_misses(
    law: Law,
    observations: Observations,
    *,
    folds: int | None = None,
    share_floor: float | None = None,
) -> list[Miss]:
    """Every measured loss beside its prediction by a fit that had not seen its mixture."""
    part = _parts(law, observations.mixture_index(), folds)
    # One mixture fewer than a fit for use needs: the left-out one takes its place as the test.
    lenient = replace(law, minimum_mixtures=law.minimum_mixtures - 1)
    misses: list[Miss] = []
    for number in np.unique(part):
        seen = fit(
            lenient, observations.take(part != number), share_floor=share_floor, profiles=False
        )
        misses.extend(_misses(seen, observations.take(part == number)))
    return misses


def seed_noise(observations: Observations) -> dict[str, float]:
    """Standard deviation in nats between runs of one mixture at one step, pooled, per target.

    Targets without a repeated mixture are not in the answer.
    """
    groups: dict[tuple[int, float], list[int]] = {}
    for row, mixture in enumerate(observations.mixture_index()):
        groups.setdefault((int(mixture), float(observations.steps[row])), []).append(row)
    noise = {}
    for target, losses in zip(observations.targets, observations.losses_nats.T, strict=True):
        squares, freedom = 0.0, 0
        for rows in groups.values():
            found = losses[rows][~np.isnan(losses[rows])]
            if len(found) > 1:
                squares += float(np.sum((found - found.mean()) ** 2))
                freedom += len(found) - 1
        if freedom:
            noise[target] = (squares / freedom) ** 0.5
    return noise


def _parts(law: Law, mixtures: Array, folds: int | None) -> Array:
    """For each row the number of the part that leaves it out, shape (row,)."""
    count = len(np.unique(mixtures))
    if count < law.minimum_mixtures:
        raise TooFewMixtures(
            f"There are {count} mixtures; {law.name} needs at least {law.minimum_mixtures}."
        )
    if folds is None:
        folds = count if count <= LEAVE_ONE_OUT_UP_TO else 10
    if not 2 <= folds <= count:
        raise TooFewMixtures(
            f"{count} mixtures can be left out in 2 to {count} parts, not {folds}."
        )
    # Mixtures are numbered in sorted order, so that taking turns spreads each part widely.
    return np.asarray(mixtures % folds)


def _misses(seen: Fit, left_out: Observations) -> list[Miss]:
    """The left-out rows on which the law is defined."""
    shares = np.maximum(left_out.proportions, seen.share_floor or 0.0)
    misses = []
    for target, found in seen.targets.items():
        own = left_out.domains.index(target) if target in left_out.domains else None
        losses = left_out.losses_nats[:, left_out.targets.index(target)]
        inputs = Inputs(shares, left_out.steps, own, left_out.params)
        rows = np.flatnonzero(seen.law.usable(inputs) & ~np.isnan(losses))
        predicted = seen.law.predict(
            found.values, inputs.take(np.isin(np.arange(len(losses)), rows))
        )
        misses += [
            Miss(
                left_out.runs[row],
                target,
                float(left_out.steps[row]),
                float(one),
                float(losses[row]),
            )
            for row, one in zip(rows, predicted, strict=True)
        ]
    return misses
