"""BiMix with transfer whose returns diminish, above an irreducible loss.

    L(r, s) = irreducible + amount(r)^-alpha * (scale * s^-beta + floor)
    amount(r) = r_own^g_own + leak * (hidden + sum over j != own of exp(deviation_j) * r_j^g_j)

Derivation: as bimix_transfer.py, but the first tokens of a domain are worth more than the last
(saturation.py), and some data of every kind is in every mixture (`hidden`). That some domain's
returns diminish faster than the target's loss as a whole is what one power of a linear amount
can't say. Powers are between 0 and 1, so that the law is convex.

Limits: one model size. Many parameters, most of them shrunk hard; with few runs it is
bimix_transfer_floor with one power.
"""

from dataclasses import replace

import numpy as np

from mixlab.laws import bimix, saturation, transfer
from mixlab.laws import bimix_transfer_floor as base
from mixlab.laws.law import Inputs, Parameter
from mixlab.mixture import Array

FIRST = 5  # irreducible, scale, alpha, beta, floor; then the amount's
START_PARTS = (0.5, 0.1)
# Fits of E lie between 1.6 and 1.9 nats on whole corpora, between 0.3 and 2.5 on single domains.
IRREDUCIBLE = replace(base.IRREDUCIBLE, shrunk=True, centre=0.0, spread=2.0)
ALPHA = Parameter(
    "alpha", 1e-8, 5.0, distinct_shares=2, shrunk=True, centre=float(np.log(0.3)), spread=1.5
)


def parameters(domains: tuple[str, ...], own: int | None) -> tuple[Parameter, ...]:
    """The irreducible loss, BiMix's four, then those of saturation.py."""
    scale, _, beta, floor = bimix.PARAMETERS
    return (IRREDUCIBLE, scale, ALPHA, beta, floor, *saturation.parameters(domains, own))


def predict(values: Array, inputs: Inputs) -> Array:
    """Loss in nats per token, (..., row)."""
    least, scale, alpha, beta, floor = _first(values)
    amount = saturation.split(values[..., FIRST:], inputs).total
    return np.asarray(least + amount**-alpha * (scale * inputs.steps**-beta + floor))


def gradient(values: Array, inputs: Inputs) -> Array:
    """Derivatives of the loss by the parameters, (..., row, parameter)."""
    _, scale, alpha, beta, floor = _first(values)
    parts = saturation.split(values[..., FIRST:], inputs)
    log_step = np.log(inputs.steps)
    by_amount, by_step = parts.total**-alpha, np.exp(-beta * log_step)
    above = by_amount * (scale * by_step + floor)
    columns = (
        np.ones_like(above),
        by_amount * by_step,
        -np.log(parts.total) * above,
        -by_amount * scale * by_step * log_step,
        by_amount,
    )
    slope = -alpha * above / parts.total
    amounts = slope[..., None] * saturation.gradient(parts, inputs)
    return np.concatenate([np.stack(columns, axis=-1), amounts], axis=-1)


def share_gradient(values: Array, inputs: Inputs) -> Array:
    """Derivatives of the loss by the shares, (..., row, domain)."""
    least, _, alpha, *_ = _first(values)
    parts = saturation.split(values[..., FIRST:], inputs)
    slope = -alpha * (predict(values, inputs) - least) / parts.total
    return np.asarray(slope[..., None] * saturation.share_gradient(parts, inputs))


def _first(values: Array) -> list[Array]:
    """irreducible, scale, alpha, beta and floor with an axis for the rows, (..., 1)."""
    return [column[..., None] for column in np.moveaxis(values[..., :FIRST], -1, 0)]


def starts(inputs: Inputs, losses: Array) -> Array:
    """Those of bimix_transfer for what is above parts of the least loss, with one power."""
    answers = []
    for part in START_PARTS:
        least = part * float(losses.min())
        found = transfer.starts(inputs, losses - least)[:2]
        amounts = saturation.started(found[:, FIRST - 1 :], inputs.own)
        first = np.full((len(found), 1), least)
        answers.append(np.concatenate([first, found[:, : FIRST - 1], amounts], axis=1))
    return np.concatenate(answers)


def worth(values: Array, own: int | None) -> Array:
    """What a token of each domain is worth in tokens of the own one, powers apart."""
    domains = (values.shape[-1] - FIRST - 2) // 2
    return transfer.worth(values[..., FIRST : FIRST + domains], own)


BIMIX_SATURATING = replace(
    base.BIMIX_TRANSFER_FLOOR,
    name="bimix_saturating",
    formula="L = irreducible + (leak * hidden + sum_j t_j r_j^g_j)^-alpha * "
    "(scale * s^-beta + floor), t_own = 1, t_j = leak * exp(deviation_j), "
    "g_j = logistic(curve + curve_deviation_j)",
    source="mixlab: bimix_transfer_floor with diminishing returns of every domain",
    validity="one model size; several times as many mixtures as domains for its full gain",
    parameters=parameters,
    predict=predict,
    gradient=gradient,
    share_gradient=share_gradient,
    starts=starts,
    worth=worth,
)
