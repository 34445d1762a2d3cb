"""Apple's additive law: a term in the mixture beside terms in the model's size and the tokens.

    L(r, N, D) = E + A / N^alpha + B / D^beta + 1 / (level * sum_j t_j r_j^gamma_j)
    t_own = 1,  t_j = leak * exp(deviation_j)

Source: arXiv 2507.09404, the additive law, E + 1 / sum_i C_i h_i^gamma_i + A / N^alpha
+ B / D^beta, with C_j = level * t_j. Two things are ours. Deviations and exponents of other
domains are shrunk (to 0 and to 1/2), since the source's 2m + 5 parameters overfit few mixtures.
And exponents stay at or below 1: returns diminish, and the law is convex.

Limits: the best mixture is the same for every size and budget, as the source says of it. Its
slope by a share has no end at a share of 0; there it is that at LEAST_SHARE.
"""

import numpy as np

from mixlab.laws import chinchilla, scaling, transfer
from mixlab.laws.law import Inputs, Law, Parameter
from mixlab.mixture import Array

FIRST = len(chinchilla.PARAMETERS)  # then the level, the worths and the exponents
LEVEL = Parameter("level", 1e-6, 1e12, unit="1 / nats", limit=1e12, distinct_shares=2)
LEAST_SHARE = 1e-9
LEAST_GAMMA = 0.02
START_GAMMAS, START_LEAKS = (0.25, 0.6), (0.01, 0.1, 0.5)


def parameters(domains: tuple[str, ...], own: int | None) -> tuple[Parameter, ...]:
    """Chinchilla's five, the level, the leak and the deviations, and every domain's exponent."""
    gammas = tuple(
        Parameter(
            f"gamma[{name}]", LEAST_GAMMA, 1.0, limit=LEAST_GAMMA, shrunk=index != own,
            centre=float(np.log(0.5)),
        )
        for index, name in enumerate(domains)
    )  # fmt: skip
    return (*chinchilla.PARAMETERS, LEVEL, *transfer.parameters(domains, own), *gammas)


def predict(values: Array, inputs: Inputs) -> Array:
    """Loss in nats per token, (..., row)."""
    return np.asarray(chinchilla.predict(values[..., :FIRST], inputs) + 1 / _useful(values, inputs))


def gradient(values: Array, inputs: Inputs) -> Array:
    """Derivatives of the loss by the parameters, (..., row, parameter)."""
    first = chinchilla.gradient(values[..., :FIRST], inputs)
    return np.concatenate([first, mixture_gradient(values, inputs)], axis=-1)


def mixture_gradient(values: Array, inputs: Inputs) -> Array:
    """Derivatives of the mixture's term by level, worths and exponents, (..., row, parameter)."""
    level = values[..., None, FIRST : FIRST + 1]
    parts = level * worth(values, inputs.own)[..., None, :] * _powers(values, inputs)
    useful = parts.sum(axis=-1, keepdims=True)
    logs = np.log(np.maximum(inputs.proportions, 1e-300))  # times a power that is 0 at 0
    columns = [useful / level]
    if inputs.own is None:
        columns.append(parts)
    else:
        others = np.delete(parts, inputs.own, axis=-1)
        leak = values[..., None, FIRST + 1 : FIRST + 2]
        columns += [others.sum(axis=-1, keepdims=True) / leak, others]
    columns.append(parts * logs)
    return np.asarray(-np.concatenate(columns, axis=-1) / useful**2)


def share_gradient(values: Array, inputs: Inputs) -> Array:
    """Derivatives of the loss by the shares, (..., row, domain)."""
    gammas = values[..., None, -inputs.proportions.shape[1] :]
    shares = np.maximum(inputs.proportions, LEAST_SHARE)
    rising = gammas * shares ** (gammas - 1) * worth(values, inputs.own)[..., None, :]
    level = values[..., FIRST : FIRST + 1]
    return np.asarray(-(level / _useful(values, inputs) ** 2)[..., None] * rising)


def _useful(values: Array, inputs: Inputs) -> Array:
    """level * sum_j t_j r_j^gamma_j, (..., row)."""
    powers = _powers(values, inputs)
    total = np.matmul(powers, worth(values, inputs.own)[..., :, None])[..., 0]
    return np.asarray(values[..., FIRST : FIRST + 1] * total)


def _powers(values: Array, inputs: Inputs) -> Array:
    return np.asarray(inputs.proportions ** values[..., None, -inputs.proportions.shape[1] :])


def worth(values: Array, own: int | None) -> Array:
    """What a token of each domain is worth in tokens of the own one, (..., domain)."""
    # Leak and deviations are as many as the domains, one of which is the own one.
    domains = (values.shape[-1] - FIRST - 1) // 2
    return transfer.worth(values[..., FIRST + 1 : FIRST + 1 + domains], own)


def starts(inputs: Inputs, losses: Array) -> Array:
    """Over a grid of exponents and leaks the law is linear in E, A, B and 1 / level."""
    domains = inputs.proportions.shape[1]
    leaks = (1.0,) if inputs.own is None else START_LEAKS
    found = []
    for leak in leaks:
        told = np.zeros(domains)
        if inputs.own is not None:
            told[0] = leak
        worths = transfer.worth(told, inputs.own)
        for gamma in START_GAMMAS:
            column = 1 / (inputs.proportions**gamma @ worths)
            error, fitted = scaling.starts(inputs, losses, column)[0]
            level = np.clip(1 / fitted[FIRST], LEVEL.lower * 10, LEVEL.upper / 10)
            rest = np.concatenate([[level], told, np.full(domains, gamma)])
            found.append((error, np.concatenate([fitted[:FIRST], rest])))
    found.sort(key=lambda pair: pair[0])
    return np.stack([values for _, values in found[:3]])


def source_form(values: Array) -> dict[str, float]:
    """The paper's five that don't depend on the mixture."""
    return chinchilla.source_form(values[:FIRST])


ADDITIVE = Law(
    name="additive",
    formula="L = E + A / N^alpha + B / D^beta + 1 / (level * sum_j t_j r_j^gamma_j), t_own = 1, "
    "t_j = leak * exp(deviation_j)",
    source="arXiv 2507.09404, additive law",
    validity="several sizes (terms in N are constant on a table of one); the same best mixture at "
    "every scale",
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
