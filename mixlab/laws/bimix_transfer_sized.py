"""BiMix with transfer across model sizes: the mixture multiplies what size and tokens leave.

    L(r, N, D) = irreducible + (size / n^gamma + scale / d^beta)^coupling * amount(r)^-alpha
    amount(r) = r_own^g + leak * sum over j != own of exp(deviation_j) * r_j^g,  g = logistic(curve)
    n = N / 3e8,  d = max(D - warmup, D / 20) / 1e10

Derivation: bimix_transfer's reducible loss, with arXiv 2203.15556's terms in size and tokens for
its curve in the step. Two changes make it extrapolate. The outer power, below 1, couples size
and tokens as in arXiv 2001.08361, eq. 1.5: size matters more after more tokens, which no sum of
terms can say. And tokens count from the end of warm-up, without which the first checkpoints
bend beta. One power g for all domains is a diminishing return (saturation.py).

The logarithm of what is above irreducible is convex in the amount and falls, and the amount is
concave in the shares, so the law is convex. Where sizes are unknown, n is 1. Limits: tokens below
20 / 19 of the warm-up; sizes far beyond those seen, where irreducible is a guess.
"""

import numpy as np

from mixlab.laws import saturation, scaling, transfer
from mixlab.laws.law import Inputs, Law, Parameter
from mixlab.mixture import Array

# Round numbers amid proxy runs, so that scales and exponents don't trade off in the search.
SIZE_UNIT, TOKEN_UNIT = 3e8, 1e10
LEAST_PART = 0.05  # of the tokens, that count whatever the warm-up

# Fits of eight targets at four sizes gave gamma 0.3 to 0.5, beta 0.85 to 1.35, coupling 0.2 to 0.5,
# and 0.4e9 to 1.1e9 tokens of warm-up.
FIRST_PARAMETERS = (
    Parameter("irreducible", 1e-6, 1e2, unit="nats", shrunk=True, spread=2.0),
    Parameter("size", 1e-6, 1e6, unit="nats^(1 / coupling)", shrunk=True, spread=4.0),
    Parameter("gamma", 1e-3, 3.0, limit=0.35, shrunk=True, centre=float(np.log(0.35)),
              spread=1.0, distinct_sizes=2),
    Parameter("scale", 1e-6, 1e6, unit="nats^(1 / coupling)", shrunk=True, spread=4.0,
              distinct_steps=2),
    Parameter("beta", 1e-3, 5.0, limit=0.8, shrunk=True, centre=float(np.log(0.8)), spread=1.5,
              distinct_steps=2),
    Parameter("warmup", 1e-3, 1e13, unit="tokens", shrunk=True, spread=3.0, distinct_steps=4),
    Parameter("coupling", 0.05, 3.0, limit=0.4, shrunk=True, centre=float(np.log(0.4)),
              spread=1.5, distinct_steps=2),
    Parameter("alpha", 1e-8, 5.0, distinct_shares=2, shrunk=True, centre=float(np.log(0.2)),
              spread=2.0),
)  # fmt: skip
FIRST = len(FIRST_PARAMETERS)
START_WARMUP = 0.3  # of the first checkpoint's tokens
START_SHAPES = ((0.6, 0.6, 0.5), (0.3, 0.4, 1.0))  # part of the least loss, coupling, beta


def parameters(domains: tuple[str, ...], own: int | None) -> tuple[Parameter, ...]:
    """The eight, then leak, deviations and curve."""
    return (*FIRST_PARAMETERS, *saturation.shared_parameters(domains, own))


def predict(values: Array, inputs: Inputs) -> Array:
    """Loss in nats per token, (..., row)."""
    least, *_, coupling, alpha = _first(values)
    by_size, by_tokens = _terms(values, inputs)
    amount = _amount(values, inputs).total
    return np.asarray(least + (by_size + by_tokens) ** coupling * amount**-alpha)


def gradient(values: Array, inputs: Inputs) -> Array:
    """Derivatives of the loss by the parameters, (..., row, parameter)."""
    _, size, _, _, beta, warmup, coupling, alpha = _first(values)
    by_size, by_tokens = _terms(values, inputs)
    parts, both = _amount(values, inputs), by_size + by_tokens
    above = both**coupling * parts.total**-alpha
    slope, tokens = above * coupling / both, _tokens(warmup, inputs)
    counted = inputs.steps - warmup > LEAST_PART * inputs.steps
    columns = (
        np.ones_like(above),
        slope * by_size / size,
        -slope * by_size * np.log(_sizes(inputs)),
        # Not by_tokens / scale: scale is 0 where all rows are at one step.
        slope * tokens**-beta,
        -slope * by_tokens * np.log(tokens),
        np.where(counted, slope * by_tokens * beta / (tokens * TOKEN_UNIT), 0.0),
        above * np.log(both),
        -above * np.log(parts.total),
    )
    amounts = (-alpha * above / parts.total)[..., None] * saturation.shared_gradient(parts, inputs)
    return np.concatenate([np.stack(columns, axis=-1), amounts], axis=-1)


def share_gradient(values: Array, inputs: Inputs) -> Array:
    """Derivatives of the loss by the shares, (..., row, domain)."""
    least, *_, alpha = _first(values)
    parts = _amount(values, inputs)
    slope = -alpha * (predict(values, inputs) - least) / parts.total
    return np.asarray(slope[..., None] * saturation.share_gradient(parts, inputs))


def _first(values: Array) -> list[Array]:
    """The eight with an axis for the rows, (..., 1)."""
    return [column[..., None] for column in np.moveaxis(values[..., :FIRST], -1, 0)]


def _amount(values: Array, inputs: Inputs) -> saturation.Parts:
    return saturation.split(saturation.expanded(values[..., FIRST:], inputs), inputs)


def _terms(values: Array, inputs: Inputs) -> tuple[Array, Array]:
    """size / n^gamma and scale / d^beta, (..., row)."""
    _, size, gamma, scale, beta, warmup, *_ = _first(values)
    return size * _sizes(inputs) ** -gamma, scale * _tokens(warmup, inputs) ** -beta


def _sizes(inputs: Inputs) -> Array:
    return np.where(np.isnan(inputs.params), 1.0, inputs.params / SIZE_UNIT)


def _tokens(warmup: Array, inputs: Inputs) -> Array:
    counted = np.maximum(inputs.steps - warmup, LEAST_PART * inputs.steps)
    return np.asarray(counted / TOKEN_UNIT)


def centres(inputs: Inputs) -> dict[str, float]:
    """Warm-up is told by the first checkpoint."""
    return {"warmup": float(np.log(START_WARMUP * inputs.steps.min()))}


def starts(inputs: Inputs, losses: Array) -> Array:
    """bimix_transfer's worths, and level terms that give the median loss."""
    found = transfer.starts(inputs, losses)
    answers = []
    for part, coupling, beta in START_SHAPES:
        for values in found[[0, -1]]:
            least, alpha = part * float(losses.min()), values[1]
            warmup = START_WARMUP * float(inputs.steps.min())
            first = np.array([least, 0.3, 0.35, 0.4, beta, warmup, coupling, alpha])
            tried = np.array([*first, *values[4:], saturation.CURVE])
            ratio = float(np.median((losses - least) / (predict(tried, inputs) - least)))
            tried[[1, 3]] *= np.clip(ratio ** (1 / coupling), 1e-4, 1e4)
            error = float(np.sum(np.log(predict(tried, inputs) / losses) ** 2))
            answers.append((error, tried))
    answers.sort(key=lambda pair: pair[0])
    lower = np.array([parameter.lower for parameter in FIRST_PARAMETERS])
    upper = np.array([parameter.upper for parameter in FIRST_PARAMETERS])
    stacked = np.stack([values for _, values in answers])
    stacked[:, :FIRST] = np.clip(stacked[:, :FIRST], lower, upper)
    return stacked


def source_form(values: Array) -> dict[str, float]:
    """The first eight, which no source writes otherwise."""
    names = [parameter.name for parameter in FIRST_PARAMETERS]
    return dict(zip(names, map(float, values[:FIRST]), strict=True))


def worth(values: Array, own: int | None) -> Array:
    """What a token of each domain is worth in tokens of the own one, power apart."""
    return transfer.worth(values[..., FIRST:-1], own)


BIMIX_TRANSFER_SIZED = Law(
    name="bimix_transfer_sized",
    formula="L = irreducible + (size / n^gamma + scale / d^beta)^coupling * "
    "(sum_j t_j r_j^g)^-alpha, n = N / 3e8, d = (D - warmup) / 1e10, t_own = 1, "
    "t_j = leak * exp(deviation_j), g = logistic(curve)",
    source="mixlab: bimix_transfer with size and tokens coupled as in arXiv 2001.08361, eq. 1.5",
    validity="several sizes, or one; checkpoints after warm-up; up to a few times the sizes seen",
    parameters=parameters,
    predict=predict,
    gradient=gradient,
    share_gradient=share_gradient,
    starts=starts,
    centres=centres,
    usable=scaling.usable,
    source_form=source_form,
    worth=worth,
    minimum_mixtures=4,
    convex=True,
    falls_with_step=True,
    zero_shares=True,
    needs_params=True,
)
