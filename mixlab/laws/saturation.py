"""Useful data with returns that diminish: the first tokens of a domain teach the most.

    amount(r) = r_own^g_own + leak * (hidden + sum over j != own of exp(deviation_j) * r_j^g_j)
    g_own = logistic(curve_own),  g_j = logistic(curve + curve_deviation_j)

As transfer.py, with a power between 0 and 1 on every share. `hidden` is data of a kind that no
share tells: text of one domain inside another's, or shares that a table rounds to 0.

Concave in the shares and rising, so that a power law that falls with the amount is convex in
them. Above 0 where shares are 0. Its slope by a share has no end at a share of 0; there it is that
at LEAST_SHARE.
"""

from dataclasses import dataclass

import numpy as np

from mixlab.laws import transfer
from mixlab.laws.law import Inputs, Parameter
from mixlab.mixture import Array

LEAST_SHARE = 1e-9
FLATTEST, STRAIGHTEST = -4.0, 8.0  # powers from 0.02 to 0.9997
CURVE = 1.4  # a power of 0.8
HIDDEN = Parameter("hidden", 1e-6, 1e2, shrunk=True, centre=float(np.log(0.02)), limit=1e-6)


def parameters(domains: tuple[str, ...], own: int | None) -> tuple[Parameter, ...]:
    """Those of transfer.py; hidden; curve_own where there is an own domain; curve; deviations."""
    deviations = tuple(
        Parameter(f"curve_deviation[{name}]", -6.0, 6.0, signed=True, shrunk=True, spread=0.5)
        for index, name in enumerate(domains)
        if index != own
    )
    curves = (_curve("curve"),) if own is None else (_curve("curve_own"), _curve("curve"))
    return (*transfer.parameters(domains, own), HIDDEN, *curves, *deviations)


def _curve(name: str) -> Parameter:
    return Parameter(name, FLATTEST, STRAIGHTEST, signed=True, shrunk=True, centre=CURVE,
                     spread=1.0, limit=CURVE)  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """The amount of each row, taken apart; arrays (..., row, domain) unless said."""

    total: Array  # (..., row)
    useful: Array  # t_j r_j^g_j
    powers: Array  # g, (..., 1, domain)
    worths: Array  # t, (..., 1, domain)
    common: Array  # leak, or 1, (..., 1)
    hidden: Array  # (..., 1)


def split(values: Array, inputs: Inputs) -> Parts:
    """The amount and its parts, from the parameters above."""
    domains, own = inputs.proportions.shape[1], inputs.own
    worths = transfer.worth(values[..., :domains], own)[..., None, :]
    hidden = values[..., domains : domains + 1]
    common = np.ones_like(hidden) if own is None else values[..., :1]
    powers = _powers(values[..., domains + 1 :], own)[..., None, :]
    # Exponentials of logarithms, since they take half the time of powers.
    present = inputs.proportions > 0
    logs = np.log(np.where(present, inputs.proportions, 1.0))
    useful = worths * (present * np.exp(powers * logs))
    total = useful.sum(axis=-1) + common * hidden
    return Parts(total, useful, powers, worths, common, hidden)


def _powers(curves: Array, own: int | None) -> Array:
    """g of each domain, (..., domain)."""
    if own is None:
        bent = curves[..., :1] + curves[..., 1:]
    else:
        others = curves[..., 1:2] + curves[..., 2:]
        bent = np.concatenate([others[..., :own], curves[..., :1], others[..., own:]], axis=-1)
    return np.asarray(1 / (1 + np.exp(-bent)))


def gradient(parts: Parts, inputs: Inputs) -> Array:
    """Derivatives of the amount by the parameters, (..., row, parameter)."""
    own, useful = inputs.own, parts.useful
    rows = parts.total[..., None]
    hidden = np.broadcast_to(parts.common[..., None], rows.shape)
    logs = np.log(np.where(inputs.proportions > 0, inputs.proportions, 1.0))
    bent = useful * logs * (parts.powers * (1 - parts.powers))
    if own is None:
        columns = [useful, hidden, bent.sum(axis=-1, keepdims=True), bent]
        return np.concatenate(columns, axis=-1)
    others, bent_others = np.delete(useful, own, axis=-1), np.delete(bent, own, axis=-1)
    by_leak = (rows - useful[..., own : own + 1]) / parts.common[..., None]
    common_curve = bent_others.sum(axis=-1, keepdims=True)
    columns = [by_leak, others, hidden, bent[..., own : own + 1], common_curve, bent_others]
    return np.concatenate(columns, axis=-1)


def share_gradient(parts: Parts, inputs: Inputs) -> Array:
    """Derivatives of the amount by the shares, (..., row, domain)."""
    shares = np.maximum(inputs.proportions, LEAST_SHARE)
    return np.asarray(parts.worths * parts.powers * shares ** (parts.powers - 1))


def started(worths: Array, own: int | None) -> Array:
    """Parameters above from starting values of transfer.py, (start, parameter)."""
    starts, domains = worths.shape
    curves = np.full((starts, 1 if own is None else 2), CURVE)
    still = np.zeros((starts, domains if own is None else domains - 1))
    hidden = np.full((starts, 1), np.exp(HIDDEN.centre))
    return np.concatenate([worths, hidden, curves, still], axis=1)


def shared_parameters(domains: tuple[str, ...], own: int | None) -> tuple[Parameter, ...]:
    """Of a pool in which all domains share one power and nothing is hidden."""
    return (*transfer.parameters(domains, own), _curve("curve"))


def expanded(values: Array, inputs: Inputs) -> Array:
    """The parameters of `split` from those of such a pool, (..., parameter)."""
    domains, own = inputs.proportions.shape[1], inputs.own
    curve = values[..., domains : domains + 1]
    none = np.zeros_like(curve)
    curves = [curve] if own is None else [curve, curve]
    still = np.repeat(none, domains if own is None else domains - 1, axis=-1)
    return np.concatenate([values[..., :domains], none, *curves, still], axis=-1)


def shared_gradient(parts: Parts, inputs: Inputs) -> Array:
    """Derivatives of the amount by the parameters of such a pool, (..., row, parameter)."""
    full, domains = gradient(parts, inputs), inputs.proportions.shape[1]
    curves = full[..., domains + 1 : domains + (2 if inputs.own is None else 3)]
    return np.concatenate([full[..., :domains], curves.sum(axis=-1, keepdims=True)], axis=-1)
