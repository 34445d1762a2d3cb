"""Minimising a sum of power laws, each of its own share, exactly.

    minimise  sum_i k_i r_i^-a_i   over   sum_i r_i = 1,  low_i <= r_i <= high_i

The problem is convex, and at the optimum one multiplier lambda serves all domains:

    r_i = clip((a_i k_i / lambda)^(1 / (1 + a_i)), low_i, high_i)

The sum of these falls as lambda grows, and which domains are clipped changes only at known
values of lambda: those are searched first, then Newton's method finds the root between two
of them. Source: arXiv 2405.14908v4, eq. 15-16, whose numerical method is not given.

Domains whose loss does not depend on their share (a_i k_i = 0) take their lower bound; if
the others can't take all the rest (lambda = 0), they share what is left in proportion to
their room, one of many equally good answers.
"""

from dataclasses import dataclass

import numpy as np

from mixlab.laws import Mask
from mixlab.mixture import Array

NEWTON_STEPS = 100


@dataclass(frozen=True)
class Split:
    """Shares that sum to 1, their multiplier, and whether they are the only optimum."""

    shares: Array  # (domain,)
    multiplier: float
    unique: bool


def split(pull: Array, exponent: Array, low: Array, high: Array) -> Split:
    """The optimal shares; `pull` is a_i k_i >= 0, bounds feasible. All arrays are (domain,)."""
    pulled = pull > 0
    reach = float(high[pulled].sum() + low[~pulled].sum())
    if reach < 1:
        return _share_out(pulled, low, high)
    shares = low.astype(float).copy()
    wanted = 1 - float(low[~pulled].sum())
    log_pull, power = np.log(pull[pulled]), 1 / (1 + exponent[pulled])
    found, log_multiplier = _pulled(log_pull, power, low[pulled], high[pulled], wanted)
    shares[pulled] = found
    return Split(shares, float(np.exp(log_multiplier)), unique=True)


def _share_out(pulled: Mask, low: Array, high: Array) -> Split:
    """Domains that pull take all they may; flat domains share the rest by their room."""
    shares = np.where(pulled, high, low)
    room = np.where(pulled, 0.0, high - low)
    total = float(room.sum())
    if total > 0:
        shares = shares + room * ((1 - float(shares.sum())) / total)
    return Split(np.clip(shares, low, high), 0.0, unique=int((room > 0).sum()) <= 1)


def _pulled(
    log_pull: Array, power: Array, low: Array, high: Array, wanted: float
) -> tuple[Array, float]:
    """Shares of domains that pull, summing to `wanted`, and the logarithm of the multiplier."""

    def at(log_multiplier: Array) -> Array:
        wish = np.exp((log_pull - log_multiplier[..., None]) * power)
        return np.asarray(np.clip(wish, low, high))

    with np.errstate(divide="ignore"):
        leaves_high = log_pull - np.log(high) / power
        meets_low = log_pull - np.log(low) / power
    breaks = np.concatenate([leaves_high, meets_low])
    breaks = np.sort(breaks[np.isfinite(breaks)])
    sums = at(breaks).sum(axis=1)
    index = max(0, int(np.searchsorted(-sums, -wanted, side="right")) - 1)
    middle = _inside(breaks, index)
    free = (leaves_high <= middle) & (middle <= meets_low)
    shares = at(np.array(middle))
    if not free.any():
        return shares, float(breaks[index])
    rest = wanted - float(shares[~free].sum())
    log_multiplier = _root(log_pull[free], power[free], rest, middle)
    wish = np.exp((log_pull[free] - log_multiplier) * power[free])
    # The last rounding error goes where it belongs: to the free shares.
    shares[free] = np.clip(wish * (rest / float(wish.sum())), low[free], high[free])
    return shares, log_multiplier


def _inside(breaks: Array, index: int) -> float:
    """A point of the segment that begins at a break."""
    if index + 1 < len(breaks):
        return float(breaks[index] + breaks[index + 1]) / 2
    return float(breaks[index]) + 1.0


def _root(log_pull: Array, power: Array, wanted: float, start: float) -> float:
    """The multiplier's logarithm at which the free shares sum to `wanted`."""
    log_multiplier = start
    for _ in range(NEWTON_STEPS):
        wish = np.exp((log_pull - log_multiplier) * power)
        total = float(wish.sum())
        # Newton on log(total), which is convex and nearly straight in the multiplier's logarithm.
        step = (np.log(total) - np.log(wanted)) * total / float(wish @ power)
        log_multiplier += step
        if abs(step) <= 1e-15 * max(1.0, abs(log_multiplier)):
            break
    return log_multiplier
