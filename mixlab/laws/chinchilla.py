"""Chinchilla: loss from the model's size and the tokens, whatever the mixture.

    L(N, D) = E + A / N^alpha + B / D^beta

Source: arXiv 2203.15556, eq. 2 (approach 3), re-fitted in arXiv 2404.10102. Since positive
parameters are fitted as logarithms and residuals are logarithms of losses, a fit with Huber's
loss of scale 1e-3 is that of the source. It sees no mixture: on a table of several, it is what
a law must beat.
"""

import numpy as np

from mixlab.laws import scaling
from mixlab.laws.law import Inputs, Law, Parameter
from mixlab.mixture import Array

PARAMETERS = (scaling.E, scaling.A, scaling.B, scaling.ALPHA, scaling.BETA)
STARTS = 4


def parameters(domains: tuple[str, ...], own: int | None) -> tuple[Parameter, ...]:
    """E, A, B, alpha, beta."""
    return PARAMETERS


def predict(values: Array, inputs: Inputs) -> Array:
    """Loss in nats per token, (..., row)."""
    e, a, b, alpha, beta = columns(values)
    return np.asarray(
        e + scaling.term(a, alpha, inputs.params) + scaling.term(b, beta, inputs.steps)
    )


def gradient(values: Array, inputs: Inputs) -> Array:
    """Derivatives of the loss by E, A, B, alpha and beta, (..., row, 5)."""
    _, a, b, alpha, beta = columns(values)
    by_a, by_alpha = scaling.term_gradient(a, alpha, inputs.params)
    by_b, by_beta = scaling.term_gradient(b, beta, inputs.steps)
    return np.stack([np.ones_like(by_a), by_a, by_b, by_alpha, by_beta], axis=-1)


def columns(values: Array) -> list[Array]:
    """Each parameter with an axis for the rows, (..., 1)."""
    return [column[..., None] for column in np.moveaxis(np.asarray(values), -1, 0)]


def share_gradient(values: Array, inputs: Inputs) -> Array:
    """Derivatives of the loss by the shares, (..., row, domain): none."""
    return np.zeros((*np.shape(values)[:-1], *inputs.proportions.shape))


def starts(inputs: Inputs, losses: Array) -> Array:
    """Starting values from the data, best first."""
    return np.stack([values for _, values in scaling.starts(inputs, losses)[:STARTS]])


def source_form(values: Array) -> dict[str, float]:
    """The paper's five."""
    return dict(zip(("E", "A", "B", "alpha", "beta"), map(float, values), strict=True))


CHINCHILLA = Law(
    name="chinchilla",
    formula="L = E + A / N^alpha + B / D^beta",
    source="arXiv 2203.15556, eq. 2",
    validity="one mixture, fresh tokens; sizes and tokens like those seen, or somewhat beyond",
    parameters=parameters,
    predict=predict,
    gradient=gradient,
    share_gradient=share_gradient,
    starts=starts,
    usable=scaling.usable,
    source_form=source_form,
    minimum_mixtures=1,
    convex=True,
    falls_with_step=True,
    zero_shares=True,
    needs_mixture=False,
    needs_params=True,
)
