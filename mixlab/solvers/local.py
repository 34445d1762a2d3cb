"""Smooth laws that are not convex: SciPy's SLSQP from several starts; the best is kept.

Starts are the middle of the region and points drawn evenly from it, always the same ones.
Objectives with corners are rounded: a maximum becomes log sum exp(x / width) * width, which is
above it by at most width * log(pieces), first wide and then narrow. Values at risk are taken over
the replicates by the slope of their ordered mean. No answer of this kind is certified.
"""

from typing import Any

import numpy as np
from scipy.optimize import minimize

from mixlab.mixture import Array
from mixlab.solvers.problem import Problem
from mixlab.solvers.program import Block, Program, divergence_slope
from mixlab.solvers.region import OF_A_SHARE, divergence
from mixlab.solvers.sampling import samples

STARTS = 6
WIDTHS = (1e-2, 1e-3, 1e-4)
ITERATIONS = 200

anyhow: Any = minimize  # its stubs know no function that returns its slope too, as jac=True says


def search(problem: Problem, *, starts: int = STARTS, first: Array | None = None) -> Array:
    """The best mixture of all searches, (domain,); with `first`, of the one from there."""
    if first is not None:
        begins = first[None, :]
    else:
        drawn = samples(problem.region, problem.start, starts - 1, seed=0)
        begins = np.vstack([problem.start.shares, drawn])
    found = np.stack([_descend(problem, shares) for shares in begins] + list(begins))
    values = problem.program.values(found)
    values = np.where(problem.region.holds(found, 1e-7), values, np.inf)
    return np.asarray(found[int(np.argmin(values))])


def slope_at(program: Program, shares: Array) -> Array:
    """The objective's slope, corners rounded at the narrowest width."""
    return _rounded(program, shares, WIDTHS[-1])[1]


def _descend(problem: Problem, shares: Array) -> Array:
    program = problem.program
    plain = all(block.score.smooth for block in program.blocks)
    low, high = problem.low, problem.high
    for width in WIDTHS[-1:] if plain else WIDTHS:
        found = anyhow(
            lambda r, width=width: _rounded(program, np.clip(r, low, high), width),
            shares,
            jac=True,
            bounds=list(zip(low, high, strict=True)),
            constraints=_constraints(problem),
            method="SLSQP",
            options={"ftol": 1e-11, "maxiter": ITERATIONS},
        )
        if not np.all(np.isfinite(found.x)):
            break
        shares = _tidied(problem, np.clip(found.x, low, high), shares)
    return shares


def _tidied(problem: Problem, found: Array, before: Array) -> Array:
    """SLSQP keeps sums to 1e-7; the rest goes to the shares off their bounds."""
    room = (found > problem.low + 1e-9) & (found < problem.high - 1e-9)
    if room.any():
        found = found + room * found * ((1 - found.sum()) / float(found[room].sum()))
    return found if problem.region.holds(found[None, :], 1e-6)[0] else before


def _constraints(problem: Problem) -> list[dict[str, Any]]:
    region = problem.region
    kept = [index for index, row in enumerate(region.rows) if row.bound not in OF_A_SHARE]
    total = np.ones((1, len(region.domains)))
    found: list[dict[str, Any]] = [
        {"type": "eq", "fun": lambda r: np.array([r.sum() - 1]), "jac": lambda r: total}
    ]
    if kept:
        matrix, limits = region.matrix[kept], region.limits[kept]
        found.append(
            {"type": "ineq", "fun": lambda r: limits - matrix @ r, "jac": lambda r: -matrix}
        )
    if region.reference is not None:
        reference = region.reference
        found.append(
            {
                "type": "ineq",
                "fun": lambda r: np.array([region.kl_nats - divergence(r, reference)]),
                "jac": lambda r: -divergence_slope(r, reference)[None, :],
            }
        )
    return found


def _rounded(program: Program, shares: Array, width: float) -> tuple[float, Array]:
    """The objective with its corners rounded, and its slope."""
    value, slope = 0.0, np.zeros(program.size)
    for block in program.blocks:
        losses = block.surface.losses(shares[None, :])[..., 0, :]
        losses = losses if losses.ndim == 2 else losses[None, :]
        numbers, weights = _heights(block, losses, width)
        parts = _parts(block, numbers)
        value += block.scale * float(parts @ numbers)
        weights = block.scale * parts[:, None] * weights
        given = weights if block.replicates > 1 else weights[0]
        slope += block.surface.weighted_gradients(shares[None, :], given)[0]
    return value, slope


def _heights(block: Block, losses: Array, width: float) -> tuple[Array, Array]:
    """The rounded number of each replicate and its slope by the losses."""
    score = block.score
    if score.kind == "mean":
        return losses @ score.weights, np.tile(score.weights, (len(losses), 1))
    pieces = score.weights * (losses - score.offsets)
    top = pieces.max(axis=1, keepdims=True)
    parts = np.exp((pieces - top) / width)
    total = parts.sum(axis=1, keepdims=True)
    return (top + width * np.log(total))[:, 0], score.weights * parts / total


def _parts(block: Block, numbers: Array) -> Array:
    """How much each replicate counts, (replicate,)."""
    count = len(numbers)
    if not block.score.risk:
        return np.full(count, 1 / count)
    tail = (1 - block.score.risk) * count
    ordered = np.clip(tail - np.arange(count), 0.0, 1.0) / tail
    parts = np.empty(count)
    parts[np.argsort(-numbers)] = ordered
    return parts
