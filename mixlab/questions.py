"""A question to a fit in plain values, as JSON holds them: the best mixture for which run, how?

    objective    {"weights", "kind", "reference_nats" or "reference_mixture", "risk"}
    constraints  {"lower", "upper", "max_epochs", "groups", "linear", "near", "repetition",
                  "trust"}

The command line, the service and its jobs all ask in this form, and keep it beside the answer, so
that a question can be changed in part and asked again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from mixlab.errors import InvalidMixture
from mixlab.fitting import Fit
from mixlab.mixture import Mixture
from mixlab.solvers import Constraints, Objective, Solution, solve
from mixlab.solvers.limits import Group, Linear, Near
from mixlab.solvers.repetition import Repetition


@dataclass(frozen=True)
class Question:
    """Which mixture is best for a run: its step (in the fit's unit), tokens and model size."""

    step: float
    budget_tokens: float | None = None
    params: float | None = None
    tokens_available: Mapping[str, float] | None = None
    objective: Mapping[str, Any] = field(default_factory=dict)
    constraints: Mapping[str, Any] = field(default_factory=dict)

    def objective_for(self, fit: Fit) -> Objective:
        """The solver's objective; a reference mixture's losses are those that the fit predicts."""
        given = self.objective
        reference = given.get("reference_nats")
        if given.get("reference_mixture"):
            if reference:
                raise InvalidMixture(
                    "The objective has reference_nats and a reference_mixture; give one of them."
                )
            mixture = Mixture(given["reference_mixture"])
            reference = fit.predict(mixture, self.step, params=self.params)
        return Objective(
            step=self.step,
            weights=given.get("weights"),
            params=self.params,
            kind=given.get("kind") or "mean",
            reference_nats=reference,
            risk=given.get("risk"),
        )

    def limits(self) -> Constraints:
        """The solver's constraints. Raises InfeasibleConstraints for what no mixture can obey."""
        return constraints_from(self.constraints, self.budget_tokens, self.tokens_available)

    def solved(self, fit: Fit) -> Solution:
        """The best mixture. Raises as `mixlab.solvers.solve`."""
        return solve(fit, self.objective_for(fit), self.limits())


def constraints_from(
    given: Mapping[str, Any],
    budget_tokens: float | None,
    tokens_available: Mapping[str, float] | None,
) -> Constraints:
    """Constraints from their plain form; what is left out does not bind."""
    near, repetition = given.get("near"), given.get("repetition")
    return Constraints(
        lower=given.get("lower") or {},
        upper=given.get("upper") or {},
        max_epochs=given.get("max_epochs"),
        budget_tokens=budget_tokens,
        tokens_available=tokens_available or {},
        groups={name: Group(**_told(group)) for name, group in (given.get("groups") or {}).items()},
        linear=tuple(_linear(one) for one in given.get("linear") or ()),
        near=near and Near(Mixture(near["mixture"]), near["kl_nats"]),
        repetition=None if repetition is None else Repetition(**_told(repetition)),
        trust=given.get("trust"),
    )


def _linear(given: Mapping[str, Any]) -> Linear:
    lower, upper = given.get("lower"), given.get("upper")
    return Linear(
        coefficients=given["coefficients"],
        lower=-inf if lower is None else lower,
        upper=inf if upper is None else upper,
        name=given.get("name"),
    )


def _told(given: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is null, which takes the default."""
    return {name: value for name, value in given.items() if value is not None}
