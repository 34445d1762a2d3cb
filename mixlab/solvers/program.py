"""An objective as a smooth convex program, with further variables where it has corners.

    minimise  sum over blocks of  scale * (mean part + cost . extras)
    with      piece_k(r) - (extras that lift piece k) <= 0
              KL(r || reference) - kl_nats <= 0

A mean is its own smooth part. A maximum becomes its height (one variable per replicate) over a
piece per target, a value at risk the level and a variable per replicate for what exceeds it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from mixlab.laws import Mask
from mixlab.mixture import Array
from mixlab.solvers.objective import Score
from mixlab.solvers.region import Region, divergence

# Of the finite differences of slopes: relative to the share, and never none.
RELATIVE_STEP, LEAST_STEP = 1e-5, 1e-9


class Losses(Protocol):
    """What a solver needs of a surface; Surface and Discounted are such."""

    @property
    def domains(self) -> tuple[str, ...]: ...
    @property
    def targets(self) -> tuple[str, ...]: ...
    @property
    def convex(self) -> bool: ...
    @property
    def smooth(self) -> bool: ...
    @property
    def defined_at_zero(self) -> Mask: ...
    def losses(self, shares: Array) -> Array: ...
    def gradients(self, shares: Array) -> Array: ...
    def weighted_gradients(self, shares: Array, weights: Array) -> Array: ...


@dataclass(frozen=True)
class Block:
    """One objective: a surface of the targets that weigh, the score, and its part in the whole.

    With a risk the surface is that of all replicates.
    """

    surface: Losses
    score: Score
    scale: float = 1.0

    @cached_property
    def replicates(self) -> int:
        """How many parameter vectors the surface holds: 1 but for an objective over replicates."""
        if self.score.risk is None:
            return 1
        shape = self.surface.losses(np.full((1, self.size), 1 / self.size)).shape
        return shape[0] if len(shape) == 3 else 1

    @property
    def size(self) -> int:
        """Number of domains."""
        return len(self.surface.domains)

    def values(self, shares: Array) -> Array:
        """The objective of each mixture, (row,)."""
        numbers = self.score.each(self.surface.losses(shares))
        return numbers if numbers.ndim == 1 else self.score.over(numbers)

    def pieces(self, losses: Array) -> Array:
        """What the extras lift, (piece,), from losses (replicate, target)."""
        if self.score.kind == "mean":
            return np.asarray(losses @ self.score.weights)
        return np.asarray((self.score.weights * (losses - self.score.offsets)).ravel())

    def slopes(self, gradients: Array) -> Array:
        """Slope of each piece, (piece, domain), from (replicate, target, domain)."""
        if self.score.kind == "mean":
            return np.asarray(np.tensordot(gradients, self.score.weights, axes=([1], [0])))
        return np.asarray((gradients * self.score.weights[:, None]).reshape(-1, self.size))

    def spread(self, multipliers: Array) -> Array:
        """Multipliers of the pieces as weights of the losses, (replicate, target)."""
        if self.score.kind == "mean":
            return np.outer(multipliers, self.score.weights)
        return multipliers.reshape(self.replicates, -1) * self.score.weights

    @cached_property
    def even(self) -> Array:
        """Weights of the losses in a mean over targets and replicates, (replicate, target)."""
        count = self.replicates
        return np.tile(self.scale * self.score.weights / count, (count, 1))

    @cached_property
    def lift(self) -> Array:
        """How much each extra lowers each piece, (piece, extra)."""
        count = self.replicates
        each = np.eye(count)
        if self.score.kind != "mean":
            each = np.repeat(each, len(self.score.weights), axis=0)
        if not self.score.risk or count == 1:
            return each
        return np.hstack([np.ones((len(each), 1)), each])

    @cached_property
    def cost(self) -> Array:
        """Of the extras, (extra,)."""
        count = self.replicates
        if not self.score.risk or count == 1:
            return np.full(count, 1 / count)
        tail = (1 - self.score.risk) * count
        return np.append(1.0, np.full(count, 1 / tail))

    @property
    def above_zero(self) -> slice:
        """Which extras may not be below 0: what exceeds the level at risk."""
        return slice(1, None) if len(self.cost) > self.replicates else slice(0, 0)

    def first(self, pieces: Array) -> Array:
        """Extras at which every piece has room."""
        room = 0.1 * float(np.ptp(pieces)) + 0.01 * float(np.abs(pieces).max()) + 1e-3
        tops = pieces.reshape(self.replicates, -1).max(axis=1)
        if len(self.cost) == self.replicates:
            return np.asarray(tops + room)
        level = float(np.median(tops))
        return np.append(level, np.maximum(tops - level, 0.0) + room)


@dataclass(frozen=True)
class Point:
    """A program at one place: shares and extras in one vector x."""

    x: Array
    slope: Array  # of the cost, (variable,)
    bend: Array  # second derivatives of the cost by the shares, (domain, domain)
    limits: Array  # of the curved constraints, at most 0, (curved,)
    slopes: Array  # (curved, variable)


class Program:
    """Blocks and the distance to a reference, over x = (shares, extras of each block)."""

    def __init__(self, blocks: Sequence[Block], region: Region) -> None:
        self.blocks, self.region = tuple(blocks), region
        self.size = len(region.domains)
        self.lifted = [block for block in self.blocks if not block.score.smooth]
        self.extras = sum(len(block.cost) for block in self.lifted)

    def value(self, shares: Array) -> float:
        """The objective itself, with the best extras."""
        return float(self.values(shares[None, :])[0])

    def values(self, shares: Array) -> Array:
        """The objective of each mixture, (row,)."""
        return np.asarray(sum(block.scale * block.values(shares) for block in self.blocks))

    def cost(self, x: Array) -> float:
        """What the program minimises, with the extras as they are in x."""
        total, at = 0.0, self.size
        for block in self.blocks:
            if block.score.smooth:
                total += block.scale * float(block.values(x[None, : self.size])[0])
            else:
                total += block.scale * float(block.cost @ x[at : at + len(block.cost)])
                at += len(block.cost)
        return total

    def begin(self, shares: Array) -> Array:
        """A whole x with room by every curved constraint but the distance."""
        extras = [
            block.first(block.pieces(_stacked(block.surface.losses(shares[None, :])[..., 0, :])))
            for block in self.lifted
        ]
        return np.concatenate([shares, *extras])

    def at(self, x: Array) -> Point:
        """The cost's derivatives, curved constraints and their slopes."""
        shares, at = x[: self.size], self.size
        slope, bend = np.zeros(len(x)), np.zeros((self.size, self.size))
        limits, slopes = [], []
        for block in self.blocks:
            if block.score.smooth:
                rises, found = _derivatives(block, shares, block.even)
                slope[: self.size] += rises
                bend += found
                continue
            losses = _stacked(block.surface.losses(shares[None, :])[..., 0, :])
            gradients = block.surface.gradients(shares).reshape(*losses.shape, self.size)
            pieces, rises = block.pieces(losses), block.slopes(gradients)
            own = slice(at, at + len(block.cost))
            at = own.stop
            slope[own] = block.scale * block.cost
            row = np.zeros((len(pieces), len(x)))
            row[:, : self.size], row[:, own] = rises, -block.lift
            limits.append(pieces - block.lift @ x[own])
            slopes.append(row)
        self._distance(shares, limits, slopes)
        empty: Array = np.zeros((0, len(x)))
        return Point(x, slope, bend, np.concatenate([*limits, []]), np.vstack([empty, *slopes]))

    def _distance(self, shares: Array, limits: list[Array], slopes: list[Array]) -> None:
        reference = self.region.reference
        if reference is None:
            return
        limits.append(divergence(shares, reference)[None] - self.region.kl_nats)
        row = np.zeros((1, self.size + self.extras))
        row[0, : self.size] = divergence_slope(shares, reference)
        slopes.append(row)

    def bend(self, point: Point, multipliers: Array) -> Array:
        """Second derivatives by the shares of cost + multipliers . curved, (domain, domain)."""
        shares, at = point.x[: self.size], 0
        answer = point.bend.copy()
        for block in self.lifted:
            weights = block.spread(multipliers[at : at + len(block.lift)])
            at += len(block.lift)
            answer += _derivatives(block, shares, weights)[1]
        if self.region.reference is not None:
            some = self.region.reference > 0
            answer[some, some] += multipliers[-1] / np.maximum(shares[some], 1e-12)
        return answer

    def sides(self) -> tuple[Array, Array]:
        """Linear constraints over x: the region's, and extras that may not be below 0."""
        wide = np.hstack([self.region.matrix, np.zeros((len(self.region.rows), self.extras))])
        rows, at = [wide], self.size
        for block in self.lifted:
            unit = np.eye(self.size + self.extras)[at : at + len(block.cost)]
            rows.append(-unit[block.above_zero])
            at += len(block.cost)
        matrix = np.vstack(rows)
        return matrix, np.append(
            self.region.limits, np.zeros(len(matrix) - len(self.region.limits))
        )


def divergence_slope(shares: Array, reference: Array) -> Array:
    """Of KL(shares || reference); 0 where the reference has nothing, as shares then are 0."""
    given = reference > 0
    safe = np.where(given, reference, 1.0)
    return np.where(given, np.log(np.maximum(shares, 1e-300) / safe) + 1, 0.0)


def _stacked(losses: Array) -> Array:
    """(target,) or (replicate, target) as (replicate, target)."""
    return losses if losses.ndim == 2 else losses[None, :]


def _derivatives(block: Block, shares: Array, weights: Array) -> tuple[Array, Array]:
    """Slope of sum weights * losses, and second derivatives from differences of its slopes."""
    weights = weights if block.replicates > 1 else weights[0]
    steps = RELATIVE_STEP * shares + LEAST_STEP
    rows = np.vstack([shares, shares + np.diag(steps)])
    slopes = block.surface.weighted_gradients(rows, weights)
    found = (slopes[1:] - slopes[0]) / steps[:, None]
    return slopes[0], np.asarray((found + found.T) / 2)
