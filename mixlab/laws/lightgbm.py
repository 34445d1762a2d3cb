"""LightGBM: gradient-boosted trees over the shares, as RegMix regresses them.

    L(r, s) = level * exp(trees(r, log s, log N))

Source: RegMix, arXiv 2407.01492, section 3.3. The formula is a constant; the trees are fitted to
the log residuals that it leaves (residual="trees"), so that losses stay positive. Needs the
extra `lightgbm`. Hundreds of runs; trees can't say more than the runs near a mixture did, so they
don't extrapolate, and are neither smooth nor convex.
"""

import numpy as np

from mixlab.laws.law import Inputs, Law, Mask, Parameter
from mixlab.mixture import Array

PARAMETERS = (Parameter("level", 1e-6, 1e3, unit="nats"),)


def parameters(domains: tuple[str, ...], own: int | None) -> tuple[Parameter, ...]:
    """The level alone; the rest is in the trees."""
    return PARAMETERS


def predict(values: Array, inputs: Inputs) -> Array:
    """The level, (..., row)."""
    return np.asarray(values + np.zeros(len(inputs.steps)))


def gradient(values: Array, inputs: Inputs) -> Array:
    """Derivatives of the level by itself, (..., row, 1)."""
    return np.ones((*np.shape(values)[:-1], len(inputs.steps), 1))


def share_gradient(values: Array, inputs: Inputs) -> Array:
    """Derivatives of the level by the shares, (..., row, domain): none."""
    return np.zeros((*np.shape(values)[:-1], *inputs.proportions.shape))


def starts(inputs: Inputs, losses: Array) -> Array:
    """The median in logarithms."""
    return np.array([[float(np.exp(np.median(np.log(losses))))]])


def usable(inputs: Inputs) -> Mask:
    """Every row."""
    return np.ones(len(inputs.steps), dtype=bool)


def source_form(values: Array) -> dict[str, float]:
    """The level."""
    return {"level": float(values[0])}


LIGHTGBM = Law(
    name="lightgbm",
    formula="L = level * exp(trees(r, log s, log N))",
    source="RegMix, arXiv 2407.01492, section 3.3",
    validity="hundreds of runs; shares, steps and sizes like those seen",
    parameters=parameters,
    predict=predict,
    gradient=gradient,
    share_gradient=share_gradient,
    starts=starts,
    usable=usable,
    source_form=source_form,
    minimum_mixtures=20,  # the fewest that two leaves of ten hold
    convex=False,
    falls_with_step=False,
    zero_shares=True,
    residual="trees",
)
