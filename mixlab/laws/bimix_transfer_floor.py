"""BiMix with transfer above an irreducible loss that no mixture and no step takes away.

    L(r, s) = irreducible + amount(r)^-alpha * (scale * s^-beta + floor)

Derivation: as bimix_transfer.py; the text's own entropy bounds every loss from below (E in
arXiv 2203.15556), so a power of the amount can't go on for ever. One parameter more, told by
how the loss bends over the amount: it needs shares from small to large.
"""

import numpy as np

from mixlab.laws import bimix, transfer
from mixlab.laws import bimix_transfer as base
from mixlab.laws.law import Inputs, Law, Parameter
from mixlab.mixture import Array

IRREDUCIBLE = Parameter("irreducible", 1e-6, 1e2, unit="nats", distinct_shares=4)
START_PARTS = (0.5, 0.1, 0.85)  # of the least loss seen


def parameters(domains: tuple[str, ...], own: int | None) -> tuple[Parameter, ...]:
    """The irreducible loss, then those of bimix_transfer."""
    return (IRREDUCIBLE, *base.parameters(domains, own))


def predict(values: Array, inputs: Inputs) -> Array:
    """Loss in nats per token, (..., row)."""
    return np.asarray(values[..., :1] + base.predict(values[..., 1:], inputs))


def gradient(values: Array, inputs: Inputs) -> Array:
    """Derivatives of the loss by the parameters, (..., row, parameter)."""
    rest = base.gradient(values[..., 1:], inputs)
    return np.concatenate([np.ones_like(rest[..., :1]), rest], axis=-1)


def share_gradient(values: Array, inputs: Inputs) -> Array:
    """Derivatives of the loss by the shares, (..., row, domain)."""
    return base.share_gradient(values[..., 1:], inputs)


def starts(inputs: Inputs, losses: Array) -> Array:
    """Those of bimix_transfer for what is left above parts of the least loss."""
    found = []
    for part in START_PARTS:
        least = part * float(losses.min())
        above = transfer.starts(inputs, losses - least)[:2]
        found += [np.array([least, *one]) for one in above]
    return np.stack(found)


def source_form(values: Array) -> dict[str, float]:
    """The irreducible loss E and BiMix's five in the gauge B = 1."""
    return {"E": float(values[0]), **bimix.source_form(values[1 : base.SHAPE + 1])}


def worth(values: Array, own: int | None) -> Array:
    """What a token of each domain is worth in tokens of the own one, (..., domain)."""
    return base.worth(values[..., 1:], own)


BIMIX_TRANSFER_FLOOR = Law(
    name="bimix_transfer_floor",
    formula="L = irreducible + (sum_j t_j r_j)^-alpha * (scale * s^-beta + floor), t_own = 1, "
    "t_j = leak * exp(deviation_j)",
    source="mixlab: bimix_transfer above the irreducible loss of arXiv 2203.15556",
    validity="one model size; shares from small to large, without which it is bimix_transfer",
    parameters=parameters,
    predict=predict,
    gradient=gradient,
    share_gradient=share_gradient,
    starts=starts,
    usable=base.usable,
    source_form=source_form,
    worth=worth,
    minimum_mixtures=5,
    convex=True,
    falls_with_step=True,
    zero_shares=True,
)
