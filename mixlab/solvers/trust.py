"""Holding a solution to shares that runs have seen.

    least_i / trust <= r_i <= trust * most_i        over the runs' shares of each domain

An optimum of a fitted law lies where the law promises most, so where its errors flatter (the
optimiser's curse, Smith and Winkler 2006), and they are greatest where no run was
(docs/decisions/0008-solutions-stay-where-runs-were.md).

Bounds, caps and whatever else was asked for win where they contradict these ranges: of one domain
the range gives way to just that bound; where it takes several domains to see that no mixture
obeys, all ranges widen together. Notes say so.
"""

from collections.abc import Mapping
from dataclasses import replace

from mixlab.errors import InfeasibleConstraints
from mixlab.solvers.constraints import Constraints, Seen
from mixlab.solvers.region import region
from mixlab.solvers.start import started

WIDER = 1.25  # by which all ranges widen at a time
WIDEST = 1e4

Ranges = Mapping[str, tuple[float, float]]


def trusted(constraints: Constraints, domains: tuple[str, ...], shares_seen: Ranges) -> Constraints:
    """The constraints with `trust` turned into ranges. Raises InfeasibleConstraints without it."""
    if constraints.trust is None:
        return constraints
    plain = replace(constraints, trust=None)
    _check(plain, domains)
    factor = constraints.trust
    while factor <= WIDEST * constraints.trust:
        held = replace(plain, seen=_seen(plain, domains, shares_seen, factor))
        try:
            _check(held, domains)
        except InfeasibleConstraints:
            factor *= WIDER
            continue
        return held if factor == constraints.trust else _noted(held, factor)
    note = (
        "the shares that runs saw leave no mixture under the other constraints, so they bind none"
    )
    return replace(plain, seen=Seen(shares_seen, {}, (note,)))


def _check(constraints: Constraints, domains: tuple[str, ...]) -> None:
    low, high = constraints.bounds(domains)
    started(region(constraints, domains, low, high))


def _seen(plain: Constraints, domains: tuple[str, ...], seen: Ranges, factor: float) -> Seen:
    """Each domain's range; an end that a bound of the domain contradicts is moved to that bound."""
    ranges, notes = {}, []
    _, tops = plain.bounds(domains)
    for name, top in zip(domains, tops.tolist(), strict=True):
        least, most = seen.get(name, (0.0, 0.0))
        low, high, floor = least / factor, min(1.0, most * factor), plain.lower.get(name, 0.0)
        if floor > high:
            notes.append(
                f"{name} at least {floor:.4g} is more than runs saw, {most:.4g} at most; what was "
                "asked for wins, and the share stays there"
            )
        if top < low:
            notes.append(
                f"{plain.why(name, top)} is less than runs saw, {least:.4g} at least; it wins"
            )
        ranges[name] = (min(low, top), max(high, floor))
    return Seen(dict(seen), ranges, tuple(notes))


def _noted(held: Constraints, factor: float) -> Constraints:
    note = (
        "the shares that runs saw leave no mixture under the other constraints, so shares may "
        f"leave them by a factor of {factor:.3g}"
    )
    return replace(held, seen=replace(held.seen, notes=(note, *held.seen.notes)))
