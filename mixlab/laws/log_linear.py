"""Log-linear law: the exponential of a weighted sum of the shares, above a floor, not shrunk.

    L(r, s) = floor + s^-beta * exp(sum_j slope_j r_j)

Source: Olmix (arXiv 2602.12237), exp(c) + exp(sum_j t_j r_j), with c = log floor. It is the
exponential law (exponential.py) without its redundant factor, and its slopes are fitted
freely, as in the source: the baseline that shrinkage must beat. The source sees one step; here
the part above the floor falls as s^-beta, and with all rows at one step beta is 0.
"""

from dataclasses import replace

import numpy as np

from mixlab.laws import exponential
from mixlab.laws.law import Inputs, Parameter
from mixlab.mixture import Array

STEEPEST = 200.0  # slopes hold the scale too, which reaches s^beta


def parameters(domains: tuple[str, ...], own: int | None) -> tuple[Parameter, ...]:
    """floor, beta, then a slope for every domain."""
    floor, _, beta, *_ = exponential.parameters(domains, own)
    slopes = (Parameter(f"slope[{name}]", -STEEPEST, STEEPEST, signed=True) for name in domains)
    return (floor, beta, *slopes)


def predict(values: Array, inputs: Inputs) -> Array:
    """Loss in nats per token, (..., row)."""
    return exponential.predict(_with_scale(values), inputs)


def gradient(values: Array, inputs: Inputs) -> Array:
    """Derivatives of the loss by the parameters, (..., row, parameter)."""
    return np.delete(exponential.gradient(_with_scale(values), inputs), 1, axis=-1)


def share_gradient(values: Array, inputs: Inputs) -> Array:
    """Derivatives of the loss by the shares, (..., row, domain)."""
    return exponential.share_gradient(_with_scale(values), inputs)


def _with_scale(values: Array) -> Array:
    one = np.ones_like(values[..., :1])
    return np.concatenate([values[..., :1], one, values[..., 1:]], axis=-1)


def starts(inputs: Inputs, losses: Array) -> Array:
    """Those of the exponential law, its scale taken into the slopes."""
    found = exponential.starts(inputs, losses)
    slopes = np.clip(found[:, 3:] + np.log(found[:, 1:2]), -STEEPEST, STEEPEST)
    return np.concatenate([found[:, :1], found[:, 2:3], slopes], axis=1)


def source_form(values: Array) -> dict[str, float]:
    """The source's c."""
    return {"c": float(np.log(values[0])) if values[0] > 0 else float("-inf")}


LOG_LINEAR = replace(
    exponential.EXPONENTIAL,
    name="log_linear",
    formula="L = floor + s^-beta * exp(sum_j slope_j r_j)",
    source="Olmix, arXiv 2602.12237, with the step made explicit",
    validity="one model size; more mixtures than domains; shares near those seen",
    parameters=parameters,
    predict=predict,
    gradient=gradient,
    share_gradient=share_gradient,
    starts=starts,
    source_form=source_form,
)
