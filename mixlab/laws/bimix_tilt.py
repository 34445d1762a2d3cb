"""BiMix with transfer and tilt: other domains' shares also help or harm by themselves.

    L(r, s) = exp(sum over j != own of tilt_j r_j) * amount(r)^-alpha * (scale * s^-beta + floor)

Derivation: as bimix_transfer.py, where other domains can only help. What they take of the
model's capacity, or bring beside tokens of the target's kind, tilts the log loss (the exponent of
arXiv 2403.16952). It holds its relatives: BiMix with a leak (deviations and tilts 0),
bimix_transfer (tilts 0), and the exponential law without a floor (alpha to 0).

The log of the loss is convex in the shares (-alpha log of a linear function, and a linear
one), so the loss is convex. Limits: one model size.
"""

from dataclasses import replace

import numpy as np

from mixlab.laws import bimix_transfer as base
from mixlab.laws import transfer
from mixlab.laws.law import Inputs, Parameter
from mixlab.mixture import Array

STEEPEST = 5.0
SPREAD = 0.1  # of log loss, between a run of one other domain alone and of none


def parameters(domains: tuple[str, ...], own: int | None) -> tuple[Parameter, ...]:
    """Those of bimix_transfer, then a tilt for every domain but the own one."""
    tilts = tuple(
        Parameter(f"tilt[{name}]", -STEEPEST, STEEPEST, signed=True, shrunk=True, spread=SPREAD)
        for index, name in enumerate(domains)
        if index != own
    )
    return (*base.parameters(domains, own), *tilts)


def predict(values: Array, inputs: Inputs) -> Array:
    """Loss in nats per token, (..., row)."""
    plain, tilts, others = _parts(values, inputs)
    return np.asarray(base.predict(plain, inputs) * np.exp(tilts @ others.T))


def gradient(values: Array, inputs: Inputs) -> Array:
    """Derivatives of the loss by the parameters, (..., row, parameter)."""
    plain, tilts, others = _parts(values, inputs)
    factor = np.exp(tilts @ others.T)[..., None]
    risen = base.predict(plain, inputs)[..., None] * factor
    return np.concatenate([base.gradient(plain, inputs) * factor, risen * others], axis=-1)


def share_gradient(values: Array, inputs: Inputs) -> Array:
    """Derivatives of the loss by the shares, (..., row, domain)."""
    plain, tilts, others = _parts(values, inputs)
    factor = np.exp(tilts @ others.T)[..., None]
    slopes = tilts if inputs.own is None else np.insert(tilts, inputs.own, 0.0, axis=-1)
    tilted = base.predict(plain, inputs)[..., None] * factor * slopes[..., None, :]
    return np.asarray(base.share_gradient(plain, inputs) * factor + tilted)


def _parts(values: Array, inputs: Inputs) -> tuple[Array, Array, Array]:
    """bimix_transfer's values, the tilts, and the other domains' shares."""
    own, shares = inputs.own, inputs.proportions
    others = shares if own is None else np.delete(shares, own, axis=1)
    plain = base.SHAPE + shares.shape[1]
    return values[..., :plain], values[..., plain:], others


def starts(inputs: Inputs, losses: Array) -> Array:
    """Those of bimix_transfer, without tilt; the common leak first."""
    found = transfer.starts(inputs, losses)[::-1]
    tilts = inputs.proportions.shape[1] - (inputs.own is not None)
    return np.concatenate([found, np.zeros((len(found), tilts))], axis=1)


def worth(values: Array, own: int | None) -> Array:
    """What a token of each domain is worth in the amount, tilt apart, (..., domain)."""
    extra = values.shape[-1] - base.SHAPE
    domains = extra // 2 if own is None else (extra + 1) // 2
    return base.worth(values[..., : base.SHAPE + domains], own)


BIMIX_TILT = replace(
    base.BIMIX_TRANSFER,
    name="bimix_tilt",
    formula="L = exp(sum_j tilt_j r_j) * (sum_j t_j r_j)^-alpha * (scale * s^-beta + floor), "
    "t_own = 1, t_j = leak * exp(deviation_j), tilt_own = 0",
    source="mixlab: bimix_transfer times the exponential of arXiv 2403.16952",
    validity="one model size; from few runs on; domains may help or harm",
    parameters=parameters,
    predict=predict,
    gradient=gradient,
    share_gradient=share_gradient,
    starts=starts,
    worth=worth,
)
