"""Data mixing law: the exponential of a weighted sum of the shares above a floor.

    L(r, s) = floor + scale * s^-beta * exp(sum_j slope_j r_j)

Source: arXiv 2403.16952, eq. 6, c + k exp(sum_j t_j r_j), fitted there at one step with k and t
of either sign. Here k = scale * s^-beta is above 0, since a negative one would make loss fall
without end in some direction, and rises with no domain's harm that a slope could not tell.

The source sees steps by fitting a power law in the step to each run first (its nested laws). Here
the step is explicit, and one search fits all: the reducible part falls as s^-beta. With all
rows at one step beta is 0, and the law is the source's.

Slopes of other domains are shrunk toward 0, so that with few runs it is a law of the own share.
Since shares sum to 1, a shift of all slopes can't be told from scale, but for that shrinkage.
"""

import numpy as np

from mixlab.laws.law import Inputs, Law, Mask, Parameter
from mixlab.mixture import Array

SHAPE = (
    Parameter("floor", 1e-6, 1e2, unit="nats", distinct_shares=3),
    Parameter("scale", 1e-9, 1e40, unit="nats * step^beta"),
    Parameter("beta", 1e-6, 3.0, distinct_steps=2),
)
STEEPEST = 60.0
START_PARTS = (0.9, 0.5, 0.98, 0.1)  # of the least loss seen


def parameters(domains: tuple[str, ...], own: int | None) -> tuple[Parameter, ...]:
    """floor, scale, beta, then a slope for every domain."""
    slopes = tuple(
        Parameter(f"slope[{name}]", -STEEPEST, STEEPEST, signed=True, shrunk=index != own)
        for index, name in enumerate(domains)
    )
    return (*SHAPE, *slopes)


def predict(values: Array, inputs: Inputs) -> Array:
    """Loss in nats per token, (..., row)."""
    return np.asarray(values[..., :1] + reducible(values, inputs))


def reducible(values: Array, inputs: Inputs) -> Array:
    """What is above the floor, (..., row)."""
    scale, beta = values[..., 1:2], values[..., 2:3]
    exponent = values[..., 3:] @ inputs.proportions.T
    return np.asarray(scale * np.exp(exponent - beta * np.log(inputs.steps)))


def gradient(values: Array, inputs: Inputs) -> Array:
    """Derivatives of the loss by the parameters, (..., row, parameter)."""
    above = reducible(values, inputs)
    first = (np.ones_like(above), above / values[..., 1:2], -np.log(inputs.steps) * above)
    slopes = above[..., None] * inputs.proportions
    return np.concatenate([np.stack(first, axis=-1), slopes], axis=-1)


def share_gradient(values: Array, inputs: Inputs) -> Array:
    """Derivatives of the loss by the shares, (..., row, domain)."""
    return np.asarray(reducible(values, inputs)[..., None] * values[..., None, 3:])


def starts(inputs: Inputs, losses: Array) -> Array:
    """Log of the loss above parts of the least loss is linear in shares and log step."""
    found = [_above(part * float(losses.min()), inputs, losses) for part in START_PARTS]
    found.sort(key=lambda pair: pair[0])
    return np.stack([values for _, values in found[:3]])


def _above(floor: float, inputs: Inputs, losses: Array) -> tuple[float, Array]:
    log_step = np.log(inputs.steps)
    centred, log_above = log_step - log_step.mean(), np.log(losses - floor)
    columns = np.column_stack([np.ones(len(losses)), centred, inputs.proportions])
    # Enough to make slopes that sum to about 0 of those that shares can't tell apart.
    ridge = 1e-4 * len(losses) * np.diag([0.0, 1e-6, *np.ones(inputs.proportions.shape[1])])
    answer = np.linalg.solve(columns.T @ columns + ridge, columns.T @ log_above)
    beta = float(np.clip(-answer[1], 1e-5, 2.0))
    slopes = np.clip(answer[2:], -STEEPEST / 2, STEEPEST / 2)
    misses = log_above + beta * log_step - inputs.proportions @ slopes
    scale = float(np.exp(np.clip(misses.mean(), -20, 90)))
    values = np.array([max(floor, 1e-6), scale, beta, *slopes])
    return float(np.sum(np.log(predict(values, inputs) / losses) ** 2)), values


def usable(inputs: Inputs) -> Mask:
    """Every row: the law is defined at shares of 0."""
    return np.ones(len(inputs.steps), dtype=bool)


def source_form(values: Array) -> dict[str, float]:
    """The paper's c, and k at step 1."""
    return {"c": float(values[0]), "k": float(values[1])}


EXPONENTIAL = Law(
    name="exponential",
    formula="L = floor + scale * s^-beta * exp(sum_j slope_j r_j)",
    source="arXiv 2403.16952, eq. 6, with the step made explicit",
    validity="one model size; shares near those seen, since far from them exponentials run away",
    parameters=parameters,
    predict=predict,
    gradient=gradient,
    share_gradient=share_gradient,
    starts=starts,
    usable=usable,
    source_form=source_form,
    minimum_mixtures=4,
    convex=True,
    falls_with_step=True,
    zero_shares=True,
)
