"""Equally likely versions of a fit: what it does not know, as parameter vectors.

    z ~ Normal(estimate, (sum_g J_g' J_g / (rows_g misfit^2) + strength * P + WIDE^-2)^-1)

the Laplace approximation of the parameters' posterior: J the law's Jacobian in log loss over the
observed rows, a mixture's rows g counted once in all, misfit the law's error on left-out mixtures,
P the precision of the shrunk parameters' priors. Bootstrap refits can't serve here: a parameter
that no run tells stays at its prior's centre in every one of them, so that they agree best where
least is known (EXPERIMENTS.md).

Limits: a parabola around the estimate; a residual fitted on top is taken as known.
"""

from dataclasses import replace

import numpy as np

from mixlab.errors import InvalidTable
from mixlab.fitting import Fit, TargetFit
from mixlab.laws import Inputs
from mixlab.mixture import Array
from mixlab.runs import Observations

WIDE = 3.0  # of z: what is believed of a parameter that neither runs nor a prior tell
LEAST_MISFIT = 1e-3  # of log loss: no law and no seed is better


def with_draws(fit: Fit, observations: Observations, count: int, seed: int) -> Fit:
    """The fit with `count` draws as its replicates; the same seed gives the same.

    Raises InvalidTable where the observations are of other domains or lack its targets.
    """
    missing = [name for name in fit.targets if name not in observations.targets]
    if observations.domains != fit.domains or missing:
        raise InvalidTable(
            "The observations must be those that the fit was made on: its domains are "
            f"{', '.join(fit.domains)}, and its targets {', '.join(fit.targets)}."
        )
    targets = {
        name: replace(found, replicates=_drawn(fit, found, observations, count, (seed, number)))
        for number, (name, found) in enumerate(fit.targets.items())
    }
    return replace(fit, targets=targets)


def misfit(found: TargetFit) -> float:
    """Standard deviation of a new run's log loss around the law, seed noise included."""
    told = found.noise_percent / 100 if found.heldout is None else found.heldout.misfit
    return max(LEAST_MISFIT, told)


def _drawn(
    fit: Fit, found: TargetFit, seen: Observations, count: int, seed: tuple[int, int]
) -> Array:
    """Parameter vectors, (draw, parameter)."""
    own = fit.domains.index(found.target) if found.target in fit.domains else None
    parameters = found.law.parameters(fit.domains, own)
    signed = np.array([parameter.signed for parameter in parameters])
    spread = np.array([known.spread if known.shrunk else np.inf for known in parameters])
    # Cross-validation shrinks for the best guess; what may be is at least as wide as the prior.
    prior = min(1.0, found.strength or 0.0) / spread**2 + WIDE**-2
    jacobian, weights = _evidence(fit, found, seen, signed)
    precision = (jacobian.T * weights) @ jacobian / misfit(found) ** 2 + np.diag(prior)
    sizes, axes = np.linalg.eigh(precision)
    steps = (axes / np.sqrt(np.maximum(sizes, WIDE**-2))) @ np.random.default_rng(
        seed
    ).standard_normal((len(prior), count))
    values = found.values
    lower, upper = (np.array([getattr(p, end) for p in parameters]) for end in ("lower", "upper"))
    with np.errstate(over="ignore"):
        moved = np.where(signed, values + steps.T, values * np.exp(np.where(signed, 0.0, steps.T)))
    # A parameter at its limit, such as a floor of 0, may lie outside its range, and stays.
    return np.clip(moved, np.minimum(lower, values), np.maximum(upper, values))


def _evidence(
    fit: Fit, found: TargetFit, seen: Observations, signed: np.ndarray
) -> tuple[Array, Array]:
    """Derivatives of log loss by z over the rows used, and each row's weight in its mixture."""
    steps = seen.tokens if fit.step_unit == "tokens" else seen.steps
    inputs = fit.inputs(found.target, seen.proportions, steps, params=seen.params)
    if found.law.needs_unique_tokens:
        inputs = replace(inputs, unique_tokens=seen.unique_tokens)
    losses = seen.losses_nats[:, seen.targets.index(found.target)]
    rows = np.isfinite(losses) & found.law.usable(inputs)
    return _slopes(found, inputs.take(rows), signed), _weights(seen.mixture_index()[rows])


def _slopes(found: TargetFit, inputs: Inputs, signed: np.ndarray) -> Array:
    values = found.values
    by_value = found.law.gradient(values, inputs) / found.law.predict(values, inputs)[:, None]
    # A parameter put at 0 is felt by nobody, whatever its slope there.
    return np.nan_to_num(by_value * np.where(signed, 1.0, values))


def _weights(clusters: np.ndarray) -> Array:
    number = np.unique(clusters, return_inverse=True)[1].reshape(-1)
    return np.asarray(1.0 / np.bincount(number)[number])
