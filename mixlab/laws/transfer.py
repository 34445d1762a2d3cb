"""What a token of each domain is worth to a target: the amount of useful data in a mixture.

    amount(r) = r_own + leak * sum over j != own of exp(deviation_j) * r_j
    amount(r) = sum over j of exp(deviation_j) * r_j           for a target that is no domain

A token of the own domain counts 1, any other leak * exp(deviation_j). Deviations are shrunk
toward 0, so that with few runs every other domain counts the same (a common leak), and with many
each has its own worth. A target without an own domain has no natural unit: the overall scale of
its worths is told by the shrinkage alone, since the law's own scale could take it over.

Linear in the shares and positive, so that any amount^-alpha is convex in them; above 0 where
shares are 0, since shares sum to 1 and every domain is worth something.
"""

import numpy as np

from mixlab.laws.law import Inputs, Parameter
from mixlab.laws.starting import Curve, curves, worths
from mixlab.mixture import Array

# Below this leak, a run without the own domain is as good as untrained; and a lower one would
# leave nothing to tell from.
LEAST_LEAK = 1e-6
# Leaks fitted to three public tables lie between 1e-4 and 0.6, around 0.01; the prior speaks only
# where no run has little of the own domain.
LEAK = Parameter(
    "leak", LEAST_LEAK, 1e3, limit=LEAST_LEAK, distinct_shares=3, shrunk=True,
    centre=float(np.log(0.02)), spread=2.0,
)  # fmt: skip
FARTHEST = 8.0  # a factor of 3000 from the common leak

START_LEAKS = (0.001, 0.01, 0.05, 0.2, 0.6)
START_ALPHAS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)


def parameters(domains: tuple[str, ...], own: int | None) -> tuple[Parameter, ...]:
    """The leak, if the target has an own domain, and a deviation for every other domain."""
    deviations = tuple(
        Parameter(f"deviation[{name}]", -FARTHEST, FARTHEST, signed=True, shrunk=True)
        for index, name in enumerate(domains)
        if index != own
    )
    return deviations if own is None else (LEAK, *deviations)


def worth(values: Array, own: int | None) -> Array:
    """What a token of each domain is worth, (..., domain), from the parameters above."""
    if own is None:
        return np.asarray(np.exp(values))
    others = values[..., :1] * np.exp(values[..., 1:])
    one = np.ones_like(others[..., :1])
    return np.concatenate([others[..., :own], one, others[..., own:]], axis=-1)


def amount(values: Array, inputs: Inputs) -> Array:
    """Useful data of each row, (..., row), in shares of the own domain."""
    return np.asarray(worth(values, inputs.own) @ inputs.proportions.T)


def amount_gradient(values: Array, inputs: Inputs) -> Array:
    """Derivatives of the amount by the parameters above, (..., row, parameter)."""
    parts = worth(values, inputs.own)[..., None, :] * inputs.proportions
    if inputs.own is None:
        return np.asarray(parts)
    others = np.delete(parts, inputs.own, axis=-1)
    by_leak = others.sum(axis=-1, keepdims=True) / values[..., None, :1]
    return np.concatenate([by_leak, others], axis=-1)


def starts(inputs: Inputs, losses: Array) -> Array:
    """Values of scale, alpha, beta, floor and the parameters above, (start, parameter).

    First, worths from a linear regression: with alpha and the curve in the step fixed,
    (loss / curve)^(-1/alpha) is linear in the shares. Then common leaks, best first.
    """
    domains = inputs.proportions.shape[1]
    leaks = [] if inputs.own is None else _leaks(inputs, losses)
    curve = leaks[0][0] if leaks else curves(np.ones(len(losses)), inputs.steps, losses)[0]
    common = [
        np.concatenate([found.values, [leak], np.zeros(domains - 1)]) for found, leak in leaks[:2]
    ]
    return np.stack([_by_regression(curve, inputs, losses), *common])


def _leaks(inputs: Inputs, losses: Array) -> list[tuple[Curve, float]]:
    own = inputs.own_share
    found = [
        (curves(own + leak * (1 - own), inputs.steps, losses)[0], leak) for leak in START_LEAKS
    ]
    return sorted(found, key=lambda pair: pair[0].error)


def _by_regression(curve: Curve, inputs: Inputs, losses: Array) -> Array:
    """The best start of a grid of alphas, with each domain's worth by regression."""
    relative = np.log(losses / curve.over(inputs.steps))
    best, least = np.empty(0), np.inf
    for alpha in START_ALPHAS:
        found = worths(np.exp(np.clip(-relative / alpha, -50, 50)), inputs.proportions)
        misses = relative + alpha * np.log(inputs.proportions @ found)
        if not (error := float(np.var(misses))) < least:
            continue
        unit = _unit(found, inputs.own)
        factor = unit**-alpha * float(np.exp(misses.mean()))
        shape = [curve.scale * factor, alpha, curve.beta, curve.floor * factor]
        best, least = np.array([*shape, *_told(found / unit, inputs.own)]), error
    return best


def _unit(found: Array, own: int | None) -> float:
    return float(found[own] if own is not None else np.exp(np.log(found).mean()))


def _told(found: Array, own: int | None) -> Array:
    """The leak and the deviations that give these worths."""
    if own is None:
        return np.clip(np.log(found), -FARTHEST / 2, FARTHEST / 2)
    others = np.log(np.delete(found, own))
    if not len(others):
        return np.array([0.1])
    leak = float(np.clip(others.mean(), np.log(1e-4), np.log(1e2)))
    return np.array([np.exp(leak), *np.clip(others - leak, -FARTHEST / 2, FARTHEST / 2)])
