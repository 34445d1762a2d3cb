"""One target's losses under one law, as a search sees them.

    residual = log predicted - log observed,   z = log value, or the value where it is signed

Log loss, because a fit is judged by its relative error (diagnostics.py). Everything takes any
number of parameter vectors at once, (..., parameter).
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mixlab.laws.law import Inputs, Law, Mask, Parameter
from mixlab.mixture import Array


@dataclass(frozen=True)
class Problem:
    """One target's losses under one law."""

    law: Law
    parameters: tuple[Parameter, ...]
    inputs: Inputs
    losses: Array  # (row,)
    inner: "Problem | None" = None  # the same losses under the law's inner one

    @cached_property
    def log_losses(self) -> Array:
        """Logarithms of the losses, (row,)."""
        return np.asarray(np.log(self.losses))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The parameters' names, in the law's order."""
        return tuple(parameter.name for parameter in self.parameters)

    @cached_property
    def signed(self) -> Mask:
        """Which parameters are fitted as they are, (parameter,)."""
        return np.array([parameter.signed for parameter in self.parameters], dtype=bool)

    @cached_property
    def shrunk(self) -> Mask:
        """Which parameters are drawn toward their centre, (parameter,)."""
        return np.array([parameter.shrunk for parameter in self.parameters], dtype=bool)

    @cached_property
    def precision(self) -> Array:
        """1 / spread^2 of the shrunk parameters' priors, 0 for the others, (parameter,)."""
        spreads = np.array([parameter.spread for parameter in self.parameters], dtype=float)
        return np.asarray(self.shrunk / spreads**2)

    @cached_property
    def centre(self) -> Array:
        """What z is drawn toward, (parameter,)."""
        return np.array([parameter.centre for parameter in self.parameters], dtype=float)

    @cached_property
    def bounds(self) -> tuple[Array, Array]:
        """Least and greatest z, (parameter,) each."""
        lower = np.array([parameter.lower for parameter in self.parameters], dtype=float)
        upper = np.array([parameter.upper for parameter in self.parameters], dtype=float)
        return self.z_of(lower), self.z_of(upper)

    def z_of(self, values: Array) -> Array:
        """Values as they are fitted: logarithms unless signed; -inf for a value of 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.signed, values, np.log(values))

    def residuals(self, values: Array) -> Array:
        """Log predicted minus log observed, (..., row)."""
        return np.asarray(np.log(self.law.predict(values, self.inputs)) - self.log_losses)

    def jacobian(self, values: Array) -> Array:
        """Derivatives of the residuals by z, (..., row, parameter)."""
        return self.linearised(values)[1]

    def linearised(self, values: Array) -> tuple[Array, Array]:
        """Residuals and their derivatives by z."""
        predicted = self.law.predict(values, self.inputs)
        slopes = np.asarray(self.law.gradient(values, self.inputs))
        slopes *= np.where(self.signed, 1.0, values)[..., None, :]
        slopes /= predicted[..., None]
        return np.asarray(np.log(predicted) - self.log_losses), slopes


def problem(
    law: Law, domains: tuple[str, ...], own: int | None, inputs: Inputs, losses: Array
) -> Problem:
    """The law's problem, with its parameters centred for these rows."""
    centres = law.centres(inputs) if law.centres else {}
    parameters = tuple(
        replace(one, centre=centres[one.name]) if one.name in centres else one
        for one in law.parameters(domains, own)
    )
    inner = problem(law.inner, domains, own, inputs, losses) if law.inner else None
    return Problem(law, parameters, inputs, losses, inner)
