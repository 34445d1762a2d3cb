"""Data-constrained scaling: repeated tokens, and parameters beyond need, count for less.

    L(N, D) = E + A / N'^alpha + B / D'^beta
    D' = U_D + U_D * r_d_star * (1 - exp(-R_D / r_d_star)),   R_D = max(D / U_D - 1, 0)
    N' = U_N + U_N * r_n_star * (1 - exp(-R_N / r_n_star)),   R_N = max(N / U_N - 1, 0)
    U_D = min(unique tokens, D),   U_N = min(N, N_opt(U_D))
    N_opt(U) = (U G)^(beta / alpha) G,   G = (alpha A / (beta B))^(1 / (alpha + beta))

U_N is the model's size that the unique tokens would have warranted. Source: arXiv 2305.16264,
eqs. 4 to 6, there with alpha = beta and the first five fitted to fresh tokens alone; hold them so
in a fit. The two r stars trade off along a flat valley: on the source's own 182 runs any
r_d_star from about 12 to 120 is within 0.3% of the least objective. It sees no mixture.
"""

import numpy as np

from mixlab.laws import chinchilla, scaling
from mixlab.laws.law import Inputs, Law, Mask, Parameter
from mixlab.mixture import Array

# Below the lower end, or beyond the upper, no run could tell one value from another.
R_D_STAR = Parameter("r_d_star", 0.05, 1e4, limit=0.05, unit="epochs")
R_N_STAR = Parameter("r_n_star", 0.05, 1e4, limit=0.05, unit="multiples of the warranted size")
START_STARS = ((15.0, 5.0), (50.0, 2.0), (5.0, 15.0), (2.0, 1.0))


def parameters(domains: tuple[str, ...], own: int | None) -> tuple[Parameter, ...]:
    """Chinchilla's five and the two r stars."""
    return (*chinchilla.PARAMETERS, R_D_STAR, R_N_STAR)


def predict(values: Array, inputs: Inputs) -> Array:
    """Loss in nats per token, (..., row)."""
    e, a, b, alpha, beta, *_ = chinchilla.columns(values)
    tokens, _ = _tokens(values, inputs)
    size, _, _ = _size(values, inputs)
    return np.asarray(e + scaling.term(a, alpha, size) + scaling.term(b, beta, tokens))


def gradient(values: Array, inputs: Inputs) -> Array:
    """Derivatives of the loss by the parameters, (..., row, 7)."""
    _, a, b, alpha, beta, *_ = chinchilla.columns(values)
    tokens, tokens_by_star = _tokens(values, inputs)
    size, size_by_star, by_warranted = _size(values, inputs)
    by_a, by_alpha = scaling.term_gradient(a, alpha, size)
    by_b, by_beta = scaling.term_gradient(b, beta, tokens)
    by_log_tokens, by_log_size = -beta * b * by_b, -alpha * a * by_a
    # Of the log of N_opt = (beta / alpha) log U + log(alpha A / (beta B)) / alpha.
    log_unique, ratio = np.log(_unique(inputs)), np.log(alpha * a / (beta * b))
    through = by_log_size * by_warranted / alpha
    columns = (
        np.ones_like(by_a),
        by_a + through / a,
        by_b - through / b,
        by_alpha + through * (1 - beta * log_unique - ratio) / alpha,
        by_beta + through * (log_unique - 1 / beta),
        by_log_tokens * tokens_by_star,
        by_log_size * size_by_star,
    )
    return np.stack(columns, axis=-1)


def _unique(inputs: Inputs) -> Array:
    return np.asarray(np.minimum(inputs.unique_tokens, inputs.steps))


def _tokens(values: Array, inputs: Inputs) -> tuple[Array, Array]:
    """D' and the derivative of its logarithm by r_d_star, (..., row)."""
    unique = _unique(inputs)
    worth, by_star, _ = _worn(inputs.steps / unique - 1, values[..., 5:6])
    return np.asarray(unique * (1 + worth)), by_star / (1 + worth)


def _size(values: Array, inputs: Inputs) -> tuple[Array, Array, Array]:
    """N' and the derivatives of its logarithm by r_n_star and log N_opt, (..., row)."""
    _, a, b, alpha, beta, *_ = chinchilla.columns(values)
    log_best = (beta * np.log(_unique(inputs)) + np.log(alpha * a / (beta * b))) / alpha
    warranted = np.minimum(inputs.params, np.exp(np.clip(log_best, -700, 700)))
    excess = inputs.params / warranted - 1
    worth, by_star, by_excess = _worn(excess, values[..., 6:7])
    by_warranted = np.where(excess > 0, 1 - (excess + 1) * by_excess / (1 + worth), 0.0)
    return np.asarray(warranted * (1 + worth)), by_star / (1 + worth), by_warranted


def _worn(excess: Array, star: Array) -> tuple[Array, Array, Array]:
    """star * (1 - exp(-excess / star)), and its derivatives by star and by excess."""
    left = np.exp(-excess / star)
    gone = -np.expm1(-excess / star)
    return np.asarray(star * gone), np.asarray(gone - excess / star * left), left


def starts(inputs: Inputs, losses: Array) -> Array:
    """Chinchilla's starts, with each of a few pairs of r stars, best first."""
    found = []
    for stars in START_STARS:
        first = np.array([values for _, values in scaling.starts(inputs, losses)[:8]])
        tried = np.concatenate([first, np.tile(stars, (len(first), 1))], axis=1)
        misses = np.log(predict(tried, inputs) / losses)
        errors = np.sum(misses**2, axis=1)
        found.append((float(errors.min()), tried[int(errors.argmin())]))
    found.sort(key=lambda pair: pair[0])
    return np.stack([values for _, values in found])


def usable(inputs: Inputs) -> Mask:
    """Rows of known size and known unique tokens."""
    return np.asarray(scaling.usable(inputs) & ~np.isnan(inputs.unique_tokens))


def source_form(values: Array) -> dict[str, float]:
    """The paper's seven."""
    stars = {"R_D*": float(values[5]), "R_N*": float(values[6])}
    return {**chinchilla.source_form(values[:5]), **stars}


DATA_CONSTRAINED = Law(
    name="data_constrained",
    formula="L = E + A / N'^alpha + B / D'^beta, with repeats and excess parameters worn out",
    source="arXiv 2305.16264, eqs. 4 to 6",
    validity="one mixture; several sizes, tokens and numbers of epochs",
    parameters=parameters,
    predict=predict,
    gradient=gradient,
    share_gradient=chinchilla.share_gradient,
    starts=starts,
    usable=usable,
    source_form=source_form,
    minimum_mixtures=1,
    convex=True,
    falls_with_step=True,
    zero_shares=True,
    needs_mixture=False,
    needs_params=True,
    needs_unique_tokens=True,
)
