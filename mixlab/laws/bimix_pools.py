"""BiMix with two pools of useful data: what is like the target's text, and what is common to all.

    L(r, s) = irreducible + (scale * s^-beta + floor) * (near^-alpha + common * far^-alpha_far)
    near = r_own^g_own + leak * (hidden + sum over j != own of exp(deviation_j) * r_j^g_j)
    far = far_hidden + sum over all j of exp(far_deviation_j) * r_j^far_g_j

Derivation: as bimix_saturating.py, but what a target needs is of two kinds, its own (names,
syntax, formulae) and a common one (grammar, facts), which different domains teach. Each is a
power law of its own pool of useful data, both with diminishing returns (saturation.py), and
their losses add up. Without the second it is bimix_saturating.

Limits: one model size. Four parameters a domain, held by their priors: the exponents' are tight,
since with few runs an exponent and its pool's worths trade off.
"""

from dataclasses import replace

import numpy as np

from mixlab.laws import bimix, saturation, transfer
from mixlab.laws import bimix_saturating as base
from mixlab.laws.law import Inputs, Parameter
from mixlab.mixture import Array

FIRST = 7  # irreducible, scale, alpha, beta, floor, common, alpha_far; then near, then far
ALPHA = replace(base.ALPHA, centre=float(np.log(0.2)), spread=0.2)
# Without a prior a search from one pool lets the other vanish, and then feels nothing of it.
COMMON = Parameter(
    "common", 1e-6, 1e6, distinct_shares=3, shrunk=True, centre=float(np.log(0.7)), spread=1.0
)
START_COMMON = (0.3, 0.6)  # of the reducible loss


def parameters(domains: tuple[str, ...], own: int | None) -> tuple[Parameter, ...]:
    """The seven, those of the near pool, and those of the far one."""
    scale, _, beta, floor = bimix.PARAMETERS
    far = (
        replace(parameter, name=f"far_{parameter.name}")
        for parameter in saturation.parameters(domains, None)
    )
    return (
        base.IRREDUCIBLE,
        scale,
        ALPHA,
        beta,
        floor,
        COMMON,
        replace(ALPHA, name="alpha_far"),
        *saturation.parameters(domains, own),
        *far,
    )


def predict(values: Array, inputs: Inputs) -> Array:
    """Loss in nats per token, (..., row)."""
    first, near, far = _pools(values, inputs)
    least, scale, alpha, beta, floor, common, alpha_far = first
    pools = near.total**-alpha + common * far.total**-alpha_far
    return np.asarray(least + pools * (scale * inputs.steps**-beta + floor))


def gradient(values: Array, inputs: Inputs) -> Array:
    """Derivatives of the loss by the parameters, (..., row, parameter)."""
    first, near, far = _pools(values, inputs)
    _, scale, alpha, beta, floor, common, alpha_far = first
    log_step = np.log(inputs.steps)
    by_step = np.exp(-beta * log_step)
    level = scale * by_step + floor
    by_near, by_far = near.total**-alpha, far.total**-alpha_far
    pools = by_near + common * by_far
    columns = (
        np.ones_like(pools),
        pools * by_step,
        -np.log(near.total) * by_near * level,
        -pools * scale * by_step * log_step,
        pools,
        by_far * level,
        -np.log(far.total) * common * by_far * level,
    )
    near_slope, far_slope = _slopes(first, near, far, level)
    return np.concatenate(
        [
            np.stack(columns, axis=-1),
            near_slope[..., None] * saturation.gradient(near, inputs),
            far_slope[..., None] * saturation.gradient(far, replace(inputs, own=None)),
        ],
        axis=-1,
    )


def share_gradient(values: Array, inputs: Inputs) -> Array:
    """Derivatives of the loss by the shares, (..., row, domain)."""
    first, near, far = _pools(values, inputs)
    _, scale, _, beta, floor, *_ = first
    level = scale * inputs.steps**-beta + floor
    near_slope, far_slope = _slopes(first, near, far, level)
    return np.asarray(
        near_slope[..., None] * saturation.share_gradient(near, inputs)
        + far_slope[..., None] * saturation.share_gradient(far, inputs)
    )


def _pools(values: Array, inputs: Inputs) -> tuple[list[Array], saturation.Parts, saturation.Parts]:
    """The first seven, (..., 1) each, and the two pools."""
    first = [column[..., None] for column in np.moveaxis(values[..., :FIRST], -1, 0)]
    far = 2 * inputs.proportions.shape[1] + 2  # as many for the near one
    return (
        first,
        saturation.split(values[..., FIRST:-far], inputs),
        saturation.split(values[..., -far:], replace(inputs, own=None)),
    )


def _slopes(
    first: list[Array], near: saturation.Parts, far: saturation.Parts, level: Array
) -> tuple[Array, Array]:
    """Derivatives of the loss by the pools' amounts, (..., row)."""
    _, _, alpha, _, _, common, alpha_far = first
    near_slope = -alpha * near.total ** (-alpha - 1) * level
    return near_slope, -alpha_far * common * far.total ** (-alpha_far - 1) * level


def starts(inputs: Inputs, losses: Array) -> Array:
    """Those of bimix_saturating, taken outward."""
    return outward(base.starts(inputs, losses)[:1], inputs)


def outward(values: Array, inputs: Inputs) -> Array:
    """Starts from values of bimix_saturating, a part of whose reducible loss the far pool gets."""
    return np.concatenate([_parted(values, inputs, part) for part in START_COMMON])


def _parted(values: Array, inputs: Inputs, part: float) -> Array:
    found, count = values.copy(), len(values)
    far = saturation.started(np.zeros((count, inputs.proportions.shape[1])), None)
    alpha_far = np.full((count, 1), np.exp(ALPHA.centre))
    near = np.exp(-found[:, 2:3] * _log_amounts(found, inputs))
    common = np.clip(part / (1 - part) * near, 1e-5, 1e5)
    found[:, [1, 4]] *= 1 - part
    return np.concatenate([found[:, :5], common, alpha_far, found[:, 5:], far], axis=1)


def _log_amounts(found: Array, inputs: Inputs) -> Array:
    """Median log amount of the near pool, (start, 1)."""
    totals = saturation.split(found[:, base.FIRST :], inputs).total
    return np.asarray(np.median(np.log(totals), axis=1, keepdims=True))


def worth(values: Array, own: int | None) -> Array:
    """What a token of each domain is worth in the near pool, powers apart."""
    domains = (values.shape[-1] - FIRST - 4) // 4
    return transfer.worth(values[..., FIRST : FIRST + domains], own)


BIMIX_POOLS = replace(
    base.BIMIX_SATURATING,
    name="bimix_pools",
    formula="L = irreducible + (scale * s^-beta + floor) * (near^-alpha + common * "
    "far^-alpha_far), near and far each hidden + sum_j t_j r_j^g_j of their own",
    source="mixlab: bimix_saturating with a second pool of useful data",
    validity="one model size; several times as many mixtures as domains",
    parameters=parameters,
    predict=predict,
    gradient=gradient,
    share_gradient=share_gradient,
    starts=starts,
    worth=worth,
    inner=base.BIMIX_SATURATING,
    outward=outward,
)
