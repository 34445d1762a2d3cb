"""BiMix: one domain's loss from its own share and the step.

    L(r, s) = r^-alpha * (scale * s^-beta + floor)

Source: arXiv 2405.14908v4, eq. 3, (A / r^alpha) * (B / s^beta + C), with A folded
into B and C, since only the products A*B and A*C can be told from data: scale = A*B,
floor = A*C. Undefined at r = 0, where it diverges, and blind to the other domains'
shares and to the model's size. s is steps in the paper; tokens do as well, which
changes scale only.
"""

import numpy as np

from mixlab.laws.law import Inputs, Law, Mask, Parameter
from mixlab.laws.starting import curves
from mixlab.mixture import Array

# The bounds only keep the search finite: losses are 0.01 to 20 nats, so floor is below 1e3, and
# scale = loss * s^beta reaches 1e33 for beta = 3 and s = 1e11 tokens.
PARAMETERS = (
    Parameter("scale", 1e-9, 1e40, unit="nats * step^beta"),
    Parameter("alpha", 1e-8, 5.0, distinct_shares=2),
    Parameter("beta", 1e-6, 3.0, distinct_steps=2),
    Parameter("floor", 1e-9, 1e3, unit="nats", distinct_steps=3),
)

STARTS = 3


def predict(values: Array, inputs: Inputs) -> Array:
    """Loss in nats per token, (..., row); `values` are scale, alpha, beta, floor."""
    scale, alpha, beta, floor = _columns(values)
    return np.asarray(inputs.own_share**-alpha * (scale * inputs.steps**-beta + floor))


def gradient(values: Array, inputs: Inputs) -> Array:
    """Derivatives of the loss by scale, alpha, beta and floor, (..., row, 4)."""
    scale, alpha, beta, floor = _columns(values)
    share, log_step = inputs.own_share, np.log(inputs.steps)
    by_share, by_step = share**-alpha, np.exp(-beta * log_step)
    loss = by_share * (scale * by_step + floor)
    columns = (
        by_share * by_step,
        -np.log(share) * loss,
        -by_share * scale * by_step * log_step,
        by_share,
    )
    return np.stack(columns, axis=-1)


def share_gradient(values: Array, inputs: Inputs) -> Array:
    """Derivatives of the loss by the shares, (..., row, domain): 0 but for the own one."""
    slope = -np.asarray(values)[..., 1:2] * predict(values, inputs) / inputs.own_share
    answer = np.zeros((*slope.shape, inputs.proportions.shape[1]))
    answer[..., inputs.own] = slope
    return answer


def _columns(values: Array) -> list[Array]:
    """Each parameter with an axis for the rows, (..., 1)."""
    return [column[..., None] for column in np.moveaxis(np.asarray(values), -1, 0)]


def starts(inputs: Inputs, losses: Array) -> Array:
    """Starting values from the data, best first, (start, 4)."""
    found = curves(inputs.own_share, inputs.steps, losses)
    return np.stack([curve.values for curve in found[:STARTS]])


def usable(inputs: Inputs) -> Mask:
    """Rows whose own share is above 0."""
    return np.asarray(inputs.own_share > 0)


def source_form(values: Array) -> dict[str, float]:
    """The paper's five in the gauge B = 1: A = scale, C = floor / scale."""
    scale, alpha, beta, floor = map(float, values)
    ratio = floor / scale if scale > 0 else float("inf")
    return {"A": scale, "B": 1.0, "C": ratio, "alpha": alpha, "beta": beta}


def power_law(values: Array, step: float) -> tuple[float, float]:
    """Coefficient K and exponent alpha of L = K * r^-alpha at one step."""
    scale, alpha, beta, floor = map(float, values)
    return scale * step**-beta + floor, alpha


BIMIX = Law(
    name="bimix",
    formula="L = r^-alpha * (scale * s^-beta + floor)",
    source="arXiv 2405.14908v4, eq. 3",
    validity="own shares above 0; one model size; domains that hardly help each other",
    parameters=lambda domains, own: PARAMETERS,
    predict=predict,
    gradient=gradient,
    share_gradient=share_gradient,
    starts=starts,
    usable=usable,
    source_form=source_form,
    power_law=power_law,
    needs_own_share=True,
    minimum_mixtures=3,  # two fix the exponent, the third tests it
    convex=True,
    falls_with_step=True,
    zero_shares=False,
)
