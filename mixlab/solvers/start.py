"""Where a search starts: a point inside everything, the distance to a reference included."""

from dataclasses import dataclass, replace

import numpy as np

from mixlab.errors import InfeasibleConstraints
from mixlab.laws import Mask
from mixlab.mixture import Array
from mixlab.solvers.interior import interior
from mixlab.solvers.objective import Score
from mixlab.solvers.program import Block, Program, divergence_slope
from mixlab.solvers.region import Inside, Region, divergence, inside


@dataclass(frozen=True)
class _Distance:
    """The distance to a reference mixture as a surface of one target."""

    domains: tuple[str, ...]
    reference: Array
    targets: tuple[str, ...] = ("distance",)
    convex: bool = True
    smooth: bool = True

    @property
    def defined_at_zero(self) -> Mask:
        return np.ones(1, dtype=bool)

    def losses(self, shares: Array) -> Array:
        return np.asarray(divergence(shares, self.reference)[:, None])

    def gradients(self, shares: Array) -> Array:
        return divergence_slope(shares, self.reference)[None, :]

    def weighted_gradients(self, shares: Array, weights: Array) -> Array:
        slopes = [divergence_slope(row, self.reference) for row in shares]
        return np.asarray(np.stack(slopes) * weights[0])


def started(found: Region) -> Inside:
    """A point inside, near enough to the reference. Raises where there is none."""
    start = inside(found)
    if found.reference is None or divergence(start.shares, found.reference) < found.kl_nats:
        return start
    distance = Score("mean", np.ones(1), np.zeros(1), None)
    free = replace(found, reference=None, kl_nats=np.inf)
    block = Block(_Distance(found.domains, found.reference), distance)
    nearest = interior(Program([block], free), start).x
    least = float(divergence(nearest, found.reference))
    if least >= found.kl_nats:
        held = found.limits - found.matrix @ nearest < 1e-6
        words = "; ".join(
            row.words for row, tight in zip(found.rows, held, strict=True) if tight and row.value
        )
        raise InfeasibleConstraints(
            f"The nearest mixture that obeys the other constraints is {least:.4g} nats from the "
            f"reference mixture, and {found.kl_nats:.4g} are allowed; held off by: {words}. Allow "
            "more distance, or loosen those."
        )
    return Inside(nearest, start.equal)
