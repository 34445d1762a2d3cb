"""How far a law's predictions can be trusted: errors on mixtures that it has not seen.

    held-out MRE = 100 * mean |predicted - observed| / observed   over left-out mixtures

Whole mixtures are left out, with all their steps, sizes and seeds: checkpoints of one run resemble
each other, so a split by row would flatter the law. Seed noise is the pooled standard
deviation between runs of the same mixture at the same step and size, which no law can beat.
"""

from dataclasses import dataclass, replace

import numpy as np

from mixlab.errors import TooFewMixtures
from mixlab.fitting import Fit, fit
from mixlab.fitting.evidence import checked, clusters_of
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
    parts; wherever all mixtures suffice for a fit, so does what these parts leave. Targets that
    are no domain are not in the answer of a law that needs the own share.
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
    # One mixture fewer than a fit for use needs: the left-out one takes its place as the test.
    lenient = replace(law, minimum_mixtures=law.minimum_mixtures - 1)
    whole = checked(law, observations)[0]
    misses: list[Miss] = []
    for target in observations.targets:
        if law.needs_own_share and target not in observations.domains:
            continue
        # Parted by target: of a domain that few mixtures hold, one part could hold them all.
        rows = _usable(law, whole, target, share_floor)
        part = _parts(law, clusters_of(law, rows), folds)
        for number in np.unique(part):
            kept = rows.take(part != number)
            seen = fit(lenient, kept, share_floor=share_floor, profiles=False, heldout=False)
            misses.extend(_misses(seen, target, rows.take(part == number)))
    return misses


def seed_noise(observations: Observations) -> dict[str, float]:
    """Standard deviation in nats between runs of one mixture at one step and size, pooled.

    Targets without a repeated mixture are not in the answer.
    """
    groups: dict[tuple[int, float, float], list[int]] = {}
    sizes = np.nan_to_num(observations.params)
    for row, mixture in enumerate(observations.mixture_index()):
        key = (int(mixture), float(observations.steps[row]), float(sizes[row]))
        groups.setdefault(key, []).append(row)
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


def _usable(
    law: Law, observations: Observations, target: str, share_floor: float | None
) -> Observations:
    """The target alone, on the rows where it was measured and the law is defined."""
    alone = observations.only([target])
    usable = law.usable(_inputs(alone, target, share_floor))
    return alone.take(usable & ~np.isnan(alone.losses_nats[:, 0]))


def _inputs(observations: Observations, target: str, share_floor: float | None) -> Inputs:
    own = observations.domains.index(target) if target in observations.domains else None
    shares = np.maximum(observations.proportions, share_floor or 0.0)
    return Inputs(shares, observations.steps, own, observations.params, observations.unique_tokens)


def _misses(seen: Fit, target: str, left_out: Observations) -> list[Miss]:
    """The left-out rows of a target beside what the fit predicts for them."""
    inputs = _inputs(left_out, target, seen.share_floor)
    predicted = seen.targets[target].predict(inputs)
    columns = (left_out.runs, left_out.steps, predicted, left_out.losses_nats[:, 0])
    return [
        Miss(run, target, float(step), float(one), float(observed))
        for run, step, one, observed in zip(*columns, strict=True)
    ]
