"""BiMix with transfer: other domains' tokens count too, each for what it is worth.

    L(r, s) = amount(r)^-alpha * (scale * s^-beta + floor)
    amount(r) = r_own + leak * sum over j != own of exp(deviation_j) * r_j

Derivation: BiMix (bimix.py) sees a target's own domain alone, though text of other domains
teaches it as well, and so it diverges at an own share of 0. Let a token of domain j be worth t_j
tokens of the own one, and put the useful share sum_j t_j r_j in the own share's place. At a
strong shrinkage (transfer.py) the worths are one common leak, which costs one parameter more
than BiMix; as the leak goes to 0, it is BiMix.

Limits: one model size. With all rows at one step only scale, alpha and worths are told. Domains
only help: worths are positive. No source; worths of this kind are in the joint law of
arXiv 2507.09404 too.
"""

import numpy as np

from mixlab.laws import bimix, transfer
from mixlab.laws.law import Inputs, Law, Mask, Parameter
from mixlab.mixture import Array

SHAPE = len(bimix.PARAMETERS)  # scale, alpha, beta, floor; then the worths


def parameters(domains: tuple[str, ...], own: int | None) -> tuple[Parameter, ...]:
    """BiMix's four, then the leak and the deviations."""
    return (*bimix.PARAMETERS, *transfer.parameters(domains, own))


def predict(values: Array, inputs: Inputs) -> Array:
    """Loss in nats per token, (..., row)."""
    scale, alpha, beta, floor = _shape(values)
    amount = transfer.amount(values[..., SHAPE:], inputs)
    return np.asarray(amount**-alpha * (scale * inputs.steps**-beta + floor))


def gradient(values: Array, inputs: Inputs) -> Array:
    """Derivatives of the loss by the parameters, (..., row, parameter)."""
    scale, alpha, beta, floor = _shape(values)
    amount = transfer.amount(values[..., SHAPE:], inputs)
    log_step = np.log(inputs.steps)
    by_amount, by_step = amount**-alpha, np.exp(-beta * log_step)
    loss = by_amount * (scale * by_step + floor)
    columns = (
        by_amount * by_step,
        -np.log(amount) * loss,
        -by_amount * scale * by_step * log_step,
        np.broadcast_to(by_amount, loss.shape),
    )
    worths = transfer.amount_gradient(values[..., SHAPE:], inputs)
    slope = -alpha * loss / amount
    return np.concatenate([np.stack(columns, axis=-1), slope[..., None] * worths], axis=-1)


def share_gradient(values: Array, inputs: Inputs) -> Array:
    """Derivatives of the loss by the shares, (..., row, domain)."""
    alpha = values[..., 1:2]
    slope = -alpha * predict(values, inputs) / transfer.amount(values[..., SHAPE:], inputs)
    return np.asarray(
        slope[..., None] * transfer.worth(values[..., SHAPE:], inputs.own)[..., None, :]
    )


def _shape(values: Array) -> list[Array]:
    """scale, alpha, beta and floor with an axis for the rows, (..., 1)."""
    return [column[..., None] for column in np.moveaxis(values[..., :SHAPE], -1, 0)]


def usable(inputs: Inputs) -> Mask:
    """Every row: the law is defined at shares of 0."""
    return np.ones(len(inputs.steps), dtype=bool)


def source_form(values: Array) -> dict[str, float]:
    """BiMix's five in the gauge B = 1."""
    return bimix.source_form(values[:SHAPE])


def worth(values: Array, own: int | None) -> Array:
    """What a token of each domain is worth in tokens of the own one, (..., domain)."""
    return transfer.worth(values[..., SHAPE:], own)


BIMIX_TRANSFER = Law(
    name="bimix_transfer",
    formula="L = (sum_j t_j r_j)^-alpha * (scale * s^-beta + floor), t_own = 1, "
    "t_j = leak * exp(deviation_j)",
    source="mixlab: BiMix (arXiv 2405.14908v4, eq. 3) with a share of useful data for its own",
    validity="one model size; domains that help or leave alone, but never harm",
    parameters=parameters,
    predict=predict,
    gradient=gradient,
    share_gradient=share_gradient,
    starts=transfer.starts,
    usable=usable,
    source_form=source_form,
    worth=worth,
    minimum_mixtures=4,  # three fix scale, alpha and leak, the fourth tests them
    convex=True,
    falls_with_step=True,
    zero_shares=True,
)
