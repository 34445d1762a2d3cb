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
from mixlab.mixture import Array

# The bounds only keep the search finite: losses are 0.01 to 20 nats, so floor is below 1e3, and
# scale = loss * s^beta reaches 1e33 for beta = 3 and s = 1e11 tokens.
PARAMETERS = (
    Parameter("scale", 1e-9, 1e40, unit="nats * step^beta"),
    Parameter("alpha", 1e-8, 5.0, distinct_shares=2),
    Parameter("beta", 1e-6, 3.0, distinct_steps=2),
    Parameter("floor", 1e-9, 1e3, unit="nats", distinct_steps=3),
)

# Published fits of the step's exponent lie between 0.1 and 1.2 (0.93 to 1.17 in tokens on
# SlimPajama); the ends are there for curves that hardly bend.
START_BETAS = np.array([0.03, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4])
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
    """Starting values from the data, best first, (start, 4).

    alpha comes from a regression of log loss on log share and a parabola in log step; for
    each beta of a grid the rest, L * r^alpha = scale * s^-beta + floor, is a straight line.
    """
    log_share, log_step = np.log(inputs.own_share), np.log(inputs.steps)
    centred = log_step - log_step.mean()
    regressors = np.stack([np.ones_like(centred), -log_share, centred, centred**2], axis=1)
    alpha = float(np.clip(np.linalg.lstsq(regressors, np.log(losses))[0][1], 1e-3, 2.0))
    level = losses * inputs.own_share**alpha
    candidates = [_line(alpha, beta, level, inputs.steps) for beta in START_BETAS]
    candidates.sort(key=lambda found: found[0])
    return np.stack([values for _, values in candidates[:STARTS]])


def _line(alpha: float, beta: float, level: Array, steps: Array) -> tuple[float, Array]:
    """Squared error and values of the positive straight line of `level` on steps^-beta."""
    x = steps**-beta
    spread, mean_x, mean = float(np.var(x)), float(x.mean()), float(level.mean())
    slope = float(np.mean((x - mean_x) * (level - mean))) / spread if spread > 0 else 0.0
    # Both parts stay positive, since they are fitted as logarithms.
    slope = float(np.clip(slope, 1e-3 * mean / mean_x, 0.999 * mean / mean_x))
    floor = mean - slope * mean_x
    error = float(np.sum((slope * x + floor - level) ** 2))
    return error, np.array([slope, alpha, beta, floor])


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
