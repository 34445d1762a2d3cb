"""Fits: a law's estimated parameters per target, with status and uncertainty."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite
from typing import Any, Literal

import numpy as np

from mixlab.errors import InvalidBudget, InvalidMixture, InvalidTable
from mixlab.fitting.uncertainty import ErrorKind
from mixlab.laws import Inputs, Law, law
from mixlab.mixture import Array, Mixture

StepUnit = Literal["steps", "tokens"]


class FitStatus(StrEnum):
    """How a target's fit ended."""

    CONVERGED = "converged"
    AT_BOUND = "at_bound"  # a parameter is at its limit: see `at_bound`
    NOT_IDENTIFIABLE = "not_identifiable"  # the data can't tell a parameter: see `reason`
    BUDGET_EXHAUSTED = "budget_exhausted"  # the search stopped before it converged


@dataclass(frozen=True)
class TargetFit:
    """One target's parameters and how far to trust them.

    Standard errors and 95% intervals are None for a parameter that was not estimated freely.
    """

    target: str
    parameters: Mapping[str, float]  # in the law's order
    source_form: Mapping[str, float | None]  # as the law's source writes them; see the law
    standard_errors: Mapping[str, float | None]
    interval95: Mapping[str, tuple[float, float] | None]
    status: FitStatus
    at_bound: tuple[str, ...]
    unidentified: tuple[str, ...]
    reason: str | None  # in words, unless converged
    error_kind: ErrorKind  # what the standard errors take as independent: mixtures or rows
    log_covariance: tuple[tuple[float, ...], ...] | None  # of the parameters' logarithms
    noise_percent: float  # robust standard deviation of the relative residuals
    r2_log_loss: float | None  # None where the observed losses never vary
    train_mre_percent: float
    rows: int
    mixtures: int
    excluded_rows: int  # own share of 0, outside the law
    floored_rows: int  # own share raised to the share floor
    missing_rows: int  # loss not measured

    @property
    def values(self) -> Array:
        """Parameters in the law's order."""
        return np.array(list(self.parameters.values()))


@dataclass(frozen=True)
class Fit:
    """A law's fits to every target that it can speak of, and where its evidence ends."""

    law: Law
    domains: tuple[str, ...]
    targets: Mapping[str, TargetFit]
    left_out_targets: Mapping[str, str]  # target to reason
    share_floor: float | None
    step_unit: StepUnit
    steps_seen: tuple[float, float]
    tokens_per_step: float | None  # None where it varies or is unknown
    shares_seen: Mapping[str, tuple[float, float]]  # per domain, over the rows with any of it

    @property
    def excluded_rows(self) -> int:
        """Rows left out for a share of 0, summed over targets."""
        return sum(found.excluded_rows for found in self.targets.values())

    def target(self, name: str) -> TargetFit:
        """The fit of one target. Raises InvalidTable for a target that was not fitted."""
        if name not in self.targets:
            raise InvalidTable(
                f"There is no fit of target {name!r}; there are {', '.join(self.targets)}."
            )
        return self.targets[name]

    def predict(self, mixture: Mixture, step: float) -> dict[str, float]:
        """Loss in nats per token of every target, at a step in the fit's step unit.

        Raises InvalidMixture where the mixture names an unknown domain, or gives a domain a
        share at which the law is undefined.
        """
        inputs = {name: self._inputs(name, mixture, step) for name in self.targets}
        return {
            name: float(self.law.predict(self.targets[name].values, row)[0])
            for name, row in inputs.items()
        }

    def prediction_errors(
        self, mixture: Mixture, step: float, *, targets: Collection[str] | None = None
    ) -> dict[str, float | None]:
        """Standard error in nats of every target's prediction, or of those named in `targets`.

        From the parameters' covariance: it says how well the parameters are known, not how well
        the law holds; None where the covariance is not known.
        """
        errors: dict[str, float | None] = {}
        for name in self.targets if targets is None else targets:
            found = self.target(name)
            inputs = self._inputs(name, mixture, step)
            by_log = self.law.gradient(found.values, inputs)[0] * found.values
            covariance = found.log_covariance
            errors[name] = None if covariance is None else float(
                np.sqrt(max(0.0, by_log @ np.array(covariance) @ by_log))
            )  # fmt: skip
        return errors

    def step_at(self, budget_tokens: float, tokens_per_step: float | None = None) -> float:
        """The value of the fit's step variable after a budget of tokens.

        Raises InvalidBudget where tokens per step are needed but neither given nor known.
        """
        if not isfinite(budget_tokens) or budget_tokens <= 0:
            raise InvalidBudget(f"A token budget must be above 0, not {budget_tokens}.")
        if self.step_unit == "tokens":
            return budget_tokens
        per_step = tokens_per_step or self.tokens_per_step
        if per_step is None:
            raise InvalidBudget(
                "The observations don't tell the tokens per step, so a budget of "
                f"{budget_tokens:.0f} tokens is no step; give tokens_per_step or a step."
            )
        return budget_tokens / per_step

    def _inputs(self, target: str, mixture: Mixture, step: float) -> Inputs:
        unknown = [name for name in mixture.domains if name not in self.domains]
        if unknown:
            raise InvalidMixture(
                f"The fit knows no domain {', '.join(map(repr, unknown))}; "
                f"it was made on {', '.join(self.domains)}."
            )
        if not isfinite(step) or step <= 0:
            raise InvalidBudget(f"A step must be above 0, not {step}.")
        shares = np.maximum(mixture.shares(self.domains), self.share_floor or 0.0)
        own = self.domains.index(target) if target in self.domains else None
        untold = np.array([np.nan])
        inputs = Inputs(shares[None, :], np.array([float(step)]), own, untold, untold)
        if not self.law.usable(inputs)[0]:
            raise InvalidMixture(
                f"The mixture gives {target!r} a share of 0, where the law {self.law.name} is "
                "undefined; give it a share above 0, or fit with a share floor."
            )
        return inputs

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form that `from_dict` reads back."""
        return {
            "law": self.law.name,
            "formula": self.law.formula,
            "domains": list(self.domains),
            "step_unit": self.step_unit,
            "steps_seen": list(self.steps_seen),
            "tokens_per_step": self.tokens_per_step,
            "shares_seen": {name: list(seen) for name, seen in self.shares_seen.items()},
            "share_floor": self.share_floor,
            "left_out_targets": dict(self.left_out_targets),
            "targets": {name: _to_dict(found) for name, found in self.targets.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Fit":
        """What `to_dict` wrote. Raises UnknownLaw, or InvalidTable where it isn't a fit."""
        try:
            return cls(
                law=law(data["law"]),
                domains=tuple(data["domains"]),
                targets={name: _from_dict(name, one) for name, one in data["targets"].items()},
                left_out_targets=dict(data["left_out_targets"]),
                share_floor=data["share_floor"],
                step_unit=data["step_unit"],
                steps_seen=(data["steps_seen"][0], data["steps_seen"][1]),
                tokens_per_step=data["tokens_per_step"],
                shares_seen={name: (a, b) for name, (a, b) in data["shares_seen"].items()},
            )
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise InvalidTable(
                f"This is not a saved fit ({type(error).__name__}: {error}); "
                "write one with `mixlab fit TABLE --output fit.json`."
            ) from error


def _to_dict(found: TargetFit) -> dict[str, Any]:
    return {
        "parameters": dict(found.parameters),
        "source_form": dict(found.source_form),
        "standard_errors": dict(found.standard_errors),
        "interval95": {
            name: None if interval is None else list(interval)
            for name, interval in found.interval95.items()
        },
        "status": found.status.value,
        "at_bound": list(found.at_bound),
        "unidentified": list(found.unidentified),
        "reason": found.reason,
        "error_kind": found.error_kind,
        "log_covariance": found.log_covariance and [list(row) for row in found.log_covariance],
        "noise_percent": found.noise_percent,
        "r2_log_loss": found.r2_log_loss,
        "train_mre_percent": found.train_mre_percent,
        "rows": found.rows,
        "mixtures": found.mixtures,
        "excluded_rows": found.excluded_rows,
        "floored_rows": found.floored_rows,
        "missing_rows": found.missing_rows,
    }


def _from_dict(target: str, data: Mapping[str, Any]) -> TargetFit:
    values = dict(data)
    values["interval95"] = {
        name: None if interval is None else (interval[0], interval[1])
        for name, interval in values["interval95"].items()
    }
    values["status"] = FitStatus(values["status"])
    values["at_bound"] = tuple(values["at_bound"])
    values["unidentified"] = tuple(values["unidentified"])
    covariance = values["log_covariance"]
    values["log_covariance"] = covariance and tuple(tuple(row) for row in covariance)
    return TargetFit(target=target, **values)
