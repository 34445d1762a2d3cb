"""Apple's joint law: the mixture changes what size and tokens bring, too.

    L(r, N, D) = E + A(r) / N^alpha + B(r) / D^beta + 1 / (level * sum_j t_j r_j^gamma_j)
    A(r) = A * (sum_j exp(deviation_A_j) r_j)^-gamma_A, B(r) likewise

Source: arXiv 2507.09404, the joint law, A^h = (sum_i C^A_i h_i)^gamma^A and B^h likewise beside
the additive law's other terms (additive.py). Ours: exponents of one sign, which makes the
law convex, and deviations shrunk toward 0, where it is the additive law.
"""

from dataclasses import replace

import numpy as np

from mixlab.laws import additive, chinchilla, scaling
from mixlab.laws.law import Inputs, Parameter
from mixlab.mixture import Array

FARTHEST = 8.0
GAMMA_START = 0.5


def parameters(domains: tuple[str, ...], own: int | None) -> tuple[Parameter, ...]:
    """Those of the additive law; gamma_A and gamma_B; deviations for A, then for B."""
    centre = float(np.log(GAMMA_START))
    return (
        *additive.parameters(domains, own),
        Parameter("gamma_A", 1e-3, 5.0, shrunk=True, centre=centre, distinct_sizes=2),
        Parameter("gamma_B", 1e-3, 5.0, shrunk=True, centre=centre, distinct_steps=2),
        *_deviations("A", domains),
        *_deviations("B", domains),
    )


def _deviations(which: str, domains: tuple[str, ...]) -> tuple[Parameter, ...]:
    sizes, steps = (2, 1) if which == "A" else (1, 2)
    return tuple(
        Parameter(
            f"deviation_{which}[{name}]", -FARTHEST, FARTHEST, signed=True, shrunk=True,
            distinct_sizes=sizes, distinct_steps=steps,
        )
        for name in domains
    )  # fmt: skip


def predict(values: Array, inputs: Inputs) -> Array:
    """Loss in nats per token, (..., row)."""
    plain, (by_size, by_tokens), _ = _parts(values, inputs)
    size, tokens = _terms(values, inputs)
    return np.asarray(
        additive.predict(plain, inputs) + (by_size - 1) * size + (by_tokens - 1) * tokens
    )


def gradient(values: Array, inputs: Inputs) -> Array:
    """Derivatives of the loss by the parameters, (..., row, parameter)."""
    plain, factors, sums = _parts(values, inputs)
    found = additive.gradient(plain, inputs)
    gammas = values[..., plain.shape[-1] : plain.shape[-1] + 2]
    more, bent = [], []
    for which, (factor, total) in enumerate(zip(factors, sums, strict=True)):
        # A and alpha, or B and beta, feel the mixture's factor.
        for column in (1 + which, 3 + which):
            found[..., column] *= factor
        risen = factor * _terms(values, inputs)[which]
        more.append(-np.log(total) * risen)
        worths = np.exp(_deviation(values, inputs, which))
        slope = -gammas[..., which : which + 1] * risen / total
        bent.append(slope[..., None] * (worths[..., None, :] * inputs.proportions))
    return np.concatenate([found, np.stack(more, axis=-1), *bent], axis=-1)


def share_gradient(values: Array, inputs: Inputs) -> Array:
    """Derivatives of the loss by the shares, (..., row, domain)."""
    plain, factors, sums = _parts(values, inputs)
    found = additive.share_gradient(plain, inputs)
    gammas = values[..., plain.shape[-1] : plain.shape[-1] + 2]
    for which, (factor, total) in enumerate(zip(factors, sums, strict=True)):
        term = _terms(values, inputs)[which]
        slope = -gammas[..., which : which + 1] * factor * term / total
        found = found + slope[..., None] * np.exp(_deviation(values, inputs, which))[..., None, :]
    return found


def _terms(values: Array, inputs: Inputs) -> tuple[Array, Array]:
    """A / N^alpha and B / D^beta, (..., row)."""
    _, a, b, alpha, beta = chinchilla.columns(values[..., : additive.FIRST])
    return scaling.term(a, alpha, inputs.params), scaling.term(b, beta, inputs.steps)


def _parts(values: Array, inputs: Inputs) -> tuple[Array, list[Array], list[Array]]:
    """The additive law's values; the mixture's factors of A and B; the sums under them."""
    domains = inputs.proportions.shape[1]
    plain = values[..., : -2 * domains - 2]
    gammas = values[..., plain.shape[-1] : plain.shape[-1] + 2]
    sums = [np.exp(_deviation(values, inputs, which)) @ inputs.proportions.T for which in (0, 1)]
    factors = [total ** -gammas[..., which : which + 1] for which, total in enumerate(sums)]
    return plain, factors, sums


def _deviation(values: Array, inputs: Inputs, which: int) -> Array:
    domains = inputs.proportions.shape[1]
    return np.asarray(values[..., -2 * domains :][..., which * domains : (which + 1) * domains])


def starts(inputs: Inputs, losses: Array) -> Array:
    """Those of the additive law, with no deviations."""
    found = additive.starts(inputs, losses)
    gammas = np.full((len(found), 2), GAMMA_START)
    return np.concatenate(
        [found, gammas, np.zeros((len(found), 2 * inputs.proportions.shape[1]))], axis=1
    )


def worth(values: Array, own: int | None) -> Array:
    """That of the additive law's term in the mixture, (..., domain)."""
    domains = (values.shape[-1] - additive.FIRST - 3) // 4
    return additive.worth(values[..., : -2 * domains - 2], own)


JOINT = replace(
    additive.ADDITIVE,
    name="joint",
    formula="L = E + A(r) / N^alpha + B(r) / D^beta + 1 / (level * sum_j t_j r_j^gamma_j), "
    "A(r) = A * (sum_j exp(deviation_A_j) r_j)^-gamma_A, B(r) likewise",
    source="arXiv 2507.09404, joint law",
    validity="several sizes and budgets for every mixture",
    parameters=parameters,
    predict=predict,
    gradient=gradient,
    share_gradient=share_gradient,
    starts=starts,
    worth=worth,
    minimum_mixtures=5,
)
