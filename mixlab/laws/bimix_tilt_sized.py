"""BiMix with transfer and tilt across model sizes.

    L(r, N, D) = exp(sum over j != own of tilt_j r_j) * amount(r)^-(alpha n^drift)
                 * (E + A / N^gamma + B / D^beta),   n = N / 3e8

Derivation: bimix_tilt.py with arXiv 2203.15556's curve in size and tokens for its curve in the
step. Worths and tilts are shared by all sizes; how much the amount counts (alpha) may drift with
the size, slowly. For tables of few mixtures at several sizes, whose runs teach one another.

Its log is convex in the shares for any size. Limits: where sizes are unknown, n is 1 and A is 0.
"""

import numpy as np

from mixlab.laws import bimix_tilt, bimix_transfer, chinchilla, scaling, transfer
from mixlab.laws.bimix_transfer_sized import SIZE_UNIT
from mixlab.laws.law import Inputs, Law, Parameter
from mixlab.mixture import Array

FIRST = 7  # E, A, B, gamma, beta, alpha, drift; then leak, deviations, tilts
DRIFT = Parameter("drift", -2.0, 2.0, signed=True, shrunk=True, spread=0.1, distinct_sizes=2)
ALPHA = Parameter(
    "alpha", 1e-8, 5.0, distinct_shares=2, shrunk=True, centre=float(np.log(0.07)), spread=2.0
)


def parameters(domains: tuple[str, ...], own: int | None) -> tuple[Parameter, ...]:
    """The seven, then those of bimix_tilt but for its curve in the step."""
    e, a, b, _, beta = chinchilla.PARAMETERS
    gamma = Parameter("gamma", 1e-3, 3.0, limit=0.35, distinct_sizes=3)
    rest = bimix_tilt.parameters(domains, own)[bimix_transfer.SHAPE :]
    return (e, a, b, gamma, beta, ALPHA, DRIFT, *rest)


def predict(values: Array, inputs: Inputs) -> Array:
    """Loss in nats per token, (..., row)."""
    amount, power, tilts, others = _parts(values, inputs)
    curve = chinchilla.predict(values[..., :5], inputs)
    return np.asarray(curve * np.exp(tilts @ others.T - power * np.log(amount)))


def gradient(values: Array, inputs: Inputs) -> Array:
    """Derivatives of the loss by the parameters, (..., row, parameter)."""
    amount, power, tilts, others = _parts(values, inputs)
    factor = np.exp(tilts @ others.T - power * np.log(amount))
    loss = factor * chinchilla.predict(values[..., :5], inputs)
    by_log_power = -loss * power * np.log(amount)
    worths = transfer.amount_gradient(_worths(values, inputs), inputs)
    return np.concatenate(
        [
            factor[..., None] * chinchilla.gradient(values[..., :5], inputs),
            (by_log_power / values[..., 5:6])[..., None],
            (by_log_power * _log_size(inputs))[..., None],
            (-power * loss / amount)[..., None] * worths,
            loss[..., None] * others,
        ],
        axis=-1,
    )


def share_gradient(values: Array, inputs: Inputs) -> Array:
    """Derivatives of the loss by the shares, (..., row, domain)."""
    amount, power, tilts, _ = _parts(values, inputs)
    slopes = tilts if inputs.own is None else np.insert(tilts, inputs.own, 0.0, axis=-1)
    worths = transfer.worth(_worths(values, inputs), inputs.own)[..., None, :]
    relative = slopes[..., None, :] - (power / amount)[..., None] * worths
    return np.asarray(predict(values, inputs)[..., None] * relative)


def _parts(values: Array, inputs: Inputs) -> tuple[Array, Array, Array, Array]:
    """The amount and its power (..., row), the tilts, and the other domains' shares."""
    own, shares = inputs.own, inputs.proportions
    others = shares if own is None else np.delete(shares, own, axis=1)
    power = values[..., 5:6] * np.exp(values[..., 6:7] * _log_size(inputs))
    amount = transfer.amount(_worths(values, inputs), inputs)
    return amount, power, values[..., FIRST + shares.shape[1] :], others


def _worths(values: Array, inputs: Inputs) -> Array:
    return values[..., FIRST : FIRST + inputs.proportions.shape[1]]


def _log_size(inputs: Inputs) -> Array:
    return np.log(np.where(np.isnan(inputs.params), SIZE_UNIT, inputs.params) / SIZE_UNIT)


def starts(inputs: Inputs, losses: Array) -> Array:
    """bimix_tilt's worths; chinchilla's curve through what they leave."""
    found = bimix_tilt.starts(inputs, losses)
    answers = []
    for values in found[:2]:
        worths = values[bimix_transfer.SHAPE :]
        amount = transfer.amount(worths[: inputs.proportions.shape[1]], inputs)
        alpha = values[1]
        for error, curve in scaling.starts(inputs, losses * amount**alpha)[:2]:
            answers.append((error, np.array([*curve, alpha, 0.0, *worths])))
    answers.sort(key=lambda pair: pair[0])
    return np.stack([values for _, values in answers])


def source_form(values: Array) -> dict[str, float]:
    """Chinchilla's five."""
    return chinchilla.source_form(values[:5])


def worth(values: Array, own: int | None) -> Array:
    """What a token of each domain is worth in the amount, tilt apart, (..., domain)."""
    extra = values.shape[-1] - FIRST
    domains = extra // 2 if own is None else (extra + 1) // 2
    return transfer.worth(values[..., FIRST : FIRST + domains], own)


BIMIX_TILT_SIZED = Law(
    name="bimix_tilt_sized",
    formula="L = exp(sum_j tilt_j r_j) * (sum_j t_j r_j)^-(alpha n^drift) * "
    "(E + A / N^gamma + B / D^beta), n = N / 3e8, t_own = 1, t_j = leak * exp(deviation_j), "
    "tilt_own = 0",
    source="mixlab: bimix_tilt with the curve of arXiv 2203.15556, eq. 2",
    validity="few mixtures at several sizes; sizes and tokens like those seen",
    parameters=parameters,
    predict=predict,
    gradient=gradient,
    share_gradient=share_gradient,
    starts=starts,
    usable=scaling.usable,
    source_form=source_form,
    worth=worth,
    minimum_mixtures=4,
    convex=True,
    falls_with_step=True,
    zero_shares=True,
    needs_params=True,
)
