"""Runs over several model sizes for a budget of FLOPs: many small ones, a few larger.

    FLOPs of a run = 6 * params * tokens        (Kaplan et al., arXiv 2001.08361, section 2.1)

What the mixture does is told by many small runs. What size does is told by the same mixtures at
larger sizes, so that nothing but the size differs. Those are repeated that lie farthest apart in
predicted log loss, after the one of least predicted loss, near which the answer will be; without
a fit, those that lie farthest apart as mixtures.

Every larger size repeats the same first few mixtures; the rest of the budget goes to the smallest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum, isfinite
from typing import Any

import numpy as np

from mixlab.design.filling import shares_of
from mixlab.design.points import distances
from mixlab.errors import InvalidBudget, TooFewMixtures
from mixlab.fitting import Fit
from mixlab.mixture import Array, Mixture

FLOPS_PER_PARAMETER_AND_TOKEN = 6.0
# Two mixtures tell how the level falls with size; the others, how what mixtures do changes.
REPEATED, FEWEST_REPEATED = 4, 2


@dataclass(frozen=True)
class Size:
    """A model size and how long its runs are."""

    params: float
    tokens: float

    def __post_init__(self) -> None:
        for what, value in (("parameters", self.params), ("tokens", self.tokens)):
            if not isfinite(value) or value <= 0:
                raise InvalidBudget(f"A run's {what} must be above 0, not {value}.")

    @property
    def flops(self) -> float:
        """Training FLOPs of one run."""
        return FLOPS_PER_PARAMETER_AND_TOKEN * self.params * self.tokens


@dataclass(frozen=True)
class PlannedRun:
    """One run of a plan."""

    label: str  # of the mixture
    mixture: Mixture
    size: Size

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {
            "label": self.label,
            "mixture": dict(self.mixture.proportions),
            "params": self.size.params,
            "tokens": self.size.tokens,
            "flops": self.size.flops,
        }


@dataclass(frozen=True)
class Plan:
    """Runs from the smallest size up, and what they cost."""

    runs: tuple[PlannedRun, ...]
    budget_flops: float
    notes: tuple[str, ...]

    @property
    def flops(self) -> float:
        """Of all runs."""
        return fsum(run.size.flops for run in self.runs)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {
            "runs": [run.to_dict() for run in self.runs],
            "flops": self.flops,
            "budget_flops": self.budget_flops,
            "notes": list(self.notes),
        }


def plan_runs(
    mixtures: Mapping[str, Mixture],
    sizes: Sequence[Size],
    *,
    budget_flops: float,
    repeated: int = REPEATED,
    fit: Fit | None = None,
) -> Plan:
    """Which of the mixtures, the most wanted first, to run at which size.

    At most `repeated` mixtures run at each larger size, as many of them as leave the smallest size
    at least as many runs as all larger sizes together. `fit`, of runs made before, foresees losses.
    Raises InvalidBudget where the budget does not pay for two mixtures at every size, and
    TooFewMixtures for fewer than two mixtures.
    """
    ordered = _checked(mixtures, sizes, budget_flops, repeated)
    order = _apart(mixtures, fit)
    number = min(repeated, len(mixtures))
    while number > FEWEST_REPEATED and not _affords(ordered, number, len(mixtures), budget_flops):
        number -= 1
    larger = number * fsum(size.flops for size in ordered[1:])
    small = min(len(mixtures), int((budget_flops - larger) / ordered[0].flops * (1 + 1e-12)))
    if small < number:
        needed = FEWEST_REPEATED * fsum(size.flops for size in ordered)
        raise InvalidBudget(
            f"{budget_flops:.3g} FLOPs don't pay for {FEWEST_REPEATED} mixtures at every size, "
            f"which cost {needed:.3g}; raise the budget, shorten the runs or leave a size out."
        )
    repeats = order[:number] if len(ordered) > 1 else []
    labels = [*repeats, *(name for name in mixtures if name not in repeats)][:small]
    labels = [name for name in mixtures if name in labels]
    runs = [PlannedRun(name, mixtures[name], ordered[0]) for name in labels]
    runs += [PlannedRun(name, mixtures[name], size) for size in ordered[1:] for name in repeats]
    return Plan(tuple(runs), float(budget_flops), _notes(mixtures, ordered, small, number))


def _affords(sizes: Sequence[Size], number: int, mixtures: int, budget_flops: float) -> bool:
    """Whether the smallest size keeps most of the runs."""
    left = budget_flops - number * fsum(size.flops for size in sizes[1:])
    wanted = min(mixtures, max(number, number * (len(sizes) - 1)))
    return left >= wanted * sizes[0].flops


def _checked(
    mixtures: Mapping[str, Mixture], sizes: Sequence[Size], budget_flops: float, repeated: int
) -> list[Size]:
    """The sizes from the cheapest up."""
    if len(mixtures) < FEWEST_REPEATED:
        raise TooFewMixtures(f"A plan needs at least 2 mixtures, not {len(mixtures)}.")
    if repeated < FEWEST_REPEATED:
        raise TooFewMixtures(
            f"At least {FEWEST_REPEATED} mixtures must be repeated at larger sizes, not {repeated}."
        )
    if not isfinite(budget_flops) or budget_flops <= 0:
        raise InvalidBudget(f"A budget of FLOPs must be above 0, not {budget_flops}.")
    if not sizes or len({size.params for size in sizes}) < len(sizes):
        raise InvalidBudget(
            f"A plan needs sizes that differ in parameters, at least one; given were "
            f"{', '.join(f'{size.params:g}' for size in sizes) or 'none'}."
        )
    return sorted(sizes, key=lambda size: size.flops)


def _apart(mixtures: Mapping[str, Mixture], fit: Fit | None) -> list[str]:
    """Labels, each mixture the farthest from those before it."""
    names = list(mixtures)
    places, first = _places(mixtures, fit)
    order = [first]
    gaps = np.linalg.norm(places - places[first], axis=1)
    while len(order) < len(names):
        gaps[order] = -1.0
        order.append(int(np.argmax(gaps)))
        gaps = np.minimum(gaps, np.linalg.norm(places - places[order[-1]], axis=1))
    return [names[index] for index in order]


def _places(mixtures: Mapping[str, Mixture], fit: Fit | None) -> tuple[Array, int]:
    """Where each mixture lies, (mixture, coordinate), and which comes first."""
    domains = next(iter(mixtures.values())).domains if fit is None else fit.domains
    shares = shares_of(list(mixtures.values()), tuple(domains))
    if fit is None:
        return np.sqrt(shares), int(np.argmin(distances(shares, shares.mean(axis=0))))
    size = None if fit.sizes_seen is None else fit.sizes_seen[0]
    losses = fit.losses(shares, fit.steps_seen[1], params=size)
    known = np.where(np.isfinite(losses), losses, np.nanmax(losses[np.isfinite(losses)]))
    return np.log(known), int(np.argmin(known.mean(axis=1)))


def _notes(
    mixtures: Mapping[str, Mixture], sizes: Sequence[Size], small: int, number: int
) -> tuple[str, ...]:
    notes = []
    if small < len(mixtures):
        notes.append(
            f"the budget pays for {small} of {len(mixtures)} mixtures at {sizes[0].params:g} "
            "parameters"
        )
    if len(sizes) == 1:
        notes.append("one size tells nothing of larger ones; add one to foresee them")
    elif number < 3:
        notes.append(
            f"{number} mixtures at the larger sizes tell how the level falls with size, hardly how "
            "the mixture's effect changes"
        )
    return tuple(notes)
