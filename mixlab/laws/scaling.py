"""Terms in the model's size and the tokens, shared by the laws that see both.

    coefficient / x^exponent,   x the model's parameters N or the training tokens D

Source: arXiv 2203.15556, eq. 2. Where sizes are not known at all, a term in N can't be told from
a constant: it is 0 there, and a law's constant takes it over, so that laws of size work on
tables of one size too. Where some sizes are known, rows without one are outside the law.
"""

import numpy as np

from mixlab.laws.law import Inputs, Mask, Parameter
from mixlab.laws.starting import positive_line
from mixlab.mixture import Array

# The bounds only keep the search finite. An exponent that no two sizes or steps tell apart from
# a coefficient takes the value published in arXiv 2404.10102; with one size the term is 0.
E = Parameter("E", 1e-6, 1e2, unit="nats")
A = Parameter("A", 1e-9, 1e40, unit="nats * parameters^alpha", distinct_sizes=2)
ALPHA = Parameter("alpha", 1e-3, 3.0, limit=0.35, distinct_sizes=3)
B = Parameter("B", 1e-9, 1e40, unit="nats * tokens^beta", distinct_steps=2)
BETA = Parameter("beta", 1e-3, 3.0, limit=0.37, distinct_steps=3)

START_EXPONENTS = (0.2, 0.35, 0.55, 0.85)


def term(coefficient: Array, exponent: Array, sizes: Array) -> Array:
    """coefficient / sizes^exponent, 0 where the size is unknown; broadcasts."""
    return np.asarray(coefficient * _power(exponent, sizes))


def term_gradient(coefficient: Array, exponent: Array, sizes: Array) -> tuple[Array, Array]:
    """Derivatives of the term by its coefficient and its exponent."""
    power = _power(exponent, sizes)
    logs = np.log(np.where(np.isnan(sizes), 1.0, sizes))
    return power, np.asarray(-coefficient * power * logs)


def _power(exponent: Array, sizes: Array) -> Array:
    known = ~np.isnan(sizes)
    return np.asarray(np.where(known, np.exp(-exponent * np.log(np.where(known, sizes, 1.0))), 0.0))


def usable(inputs: Inputs) -> Mask:
    """Rows of known size, or all if no size is known."""
    known = ~np.isnan(inputs.params)
    return known if known.any() else np.ones(len(known), dtype=bool)


def starts(inputs: Inputs, losses: Array, column: Array | None = None) -> list[tuple[float, Array]]:
    """Errors and values of E, A, B, alpha, beta (and the column's factor), best first.

    For each pair of exponents of a grid the law is linear in the rest.
    """
    found = []
    extra = [] if column is None else [column]
    for alpha in START_EXPONENTS:
        for beta in START_EXPONENTS:
            size = _power(np.asarray(alpha), inputs.params)
            columns = [np.ones(len(losses)), size, _power(np.asarray(beta), inputs.steps), *extra]
            error, (constant, a, b, *rest) = positive_line(np.stack(columns, axis=1), losses)
            found.append((error, np.array([constant, a, b, alpha, beta, *rest])))
    found.sort(key=lambda pair: pair[0])
    return found
