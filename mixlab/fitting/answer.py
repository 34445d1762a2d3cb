"""Fits: a law's estimated parameters per target, with status and uncertainty."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite
from typing import Any, Literal

import numpy as np

from mixlab.errors import InvalidBudget, InvalidMixture, InvalidTable
from mixlab.fitting.intervals import HeldOut, Residual, half_widths, parameter_variances
from mixlab.fitting.surface import Surface, surface
from mixlab.fitting.uncertainty import ErrorKind
from mixlab.laws import Inputs, Law, Mask
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
    law: Law
    parameters: Mapping[str, float]  # in the law's order
    source_form: Mapping[str, float | None]  # as the law's source writes them; see the law
    standard_errors: Mapping[str, float | None]
    interval95: Mapping[str, tuple[float, float] | None]
    status: FitStatus
    at_bound: tuple[str, ...]
    unidentified: tuple[str, ...]
    reason: str | None  # in words, unless converged
    error_kind: ErrorKind  # what the standard errors take as independent: mixtures or rows
    log_covariance: tuple[tuple[float, ...], ...] | None  # of log parameters, or signed ones
    noise_percent: float  # robust standard deviation of the relative residuals
    r2_log_loss: float | None  # None where the observed losses never vary
    train_mre_percent: float
    rows: int
    mixtures: int
    excluded_rows: int  # own share of 0, outside the law
    floored_rows: int  # own share raised to the share floor
    missing_rows: int  # loss not measured
    strength: float | None = None  # of shrinking, chosen by cross-validation (penalty.py)
    heldout: HeldOut | None = None  # errors on left-out mixtures; None where too few to leave out
    residual: Residual | None = field(default=None, compare=False)  # on the log residuals
    replicates: Array | None = field(default=None, compare=False)  # bootstrap, (B, parameter)
    # Log errors on rows whose mixtures were left out, (row,), also of the formula without what is
    # fitted to its residuals, and those mixtures' numbers; not saved.
    heldout_errors: Array | None = field(default=None, compare=False, repr=False)
    heldout_formula_errors: Array | None = field(default=None, compare=False, repr=False)
    heldout_mixtures: np.ndarray | None = field(default=None, compare=False, repr=False)

    @property
    def values(self) -> Array:
        """Parameters in the law's order."""
        return np.array(list(self.parameters.values()))

    def predict(self, inputs: Inputs) -> Array:
        """Loss in nats per token, with what is fitted to the residuals, (row,)."""
        predicted = self.law.predict(self.values, inputs)
        if self.residual is None:
            return predicted
        return np.asarray(predicted * np.exp(self.residual.predict(inputs)[0]))


@dataclass(frozen=True)
class Fit:
    """Laws fitted to every target that they can speak of, and where their evidence ends."""

    law_name: str  # "auto" where each target has its own
    domains: tuple[str, ...]
    targets: Mapping[str, TargetFit]
    left_out_targets: Mapping[str, str]  # target to reason
    share_floor: float | None
    step_unit: StepUnit
    steps_seen: tuple[float, float]
    tokens_per_step: float | None  # None where it varies or is unknown
    shares_seen: Mapping[str, tuple[float, float]]  # per domain, over the rows with any of it
    sizes_seen: tuple[float, float] | None = None  # parameters of the models; None where unknown
    notes: tuple[str, ...] = ()  # what is odd in the table, and what to do about it

    @property
    def law(self) -> Law:
        """The law of all targets. Raises InvalidTable where they have different ones."""
        laws = {found.law.name: found.law for found in self.targets.values()}
        if len(laws) != 1:
            raise InvalidTable(
                f"The targets have {len(laws)} laws ({', '.join(laws)}); ask a target for its own."
            )
        return next(iter(laws.values()))

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

    def predict(
        self, mixture: Mixture, step: float, *, params: float | None = None
    ) -> dict[str, float]:
        """Loss in nats per token of every target, at a step in the fit's step unit.

        Raises InvalidMixture where the mixture names an unknown domain, or gives a domain a
        share at which the law is undefined, and InvalidBudget where a law compares model sizes
        and `params`, the model's number of parameters, is not given.
        """
        inputs = {name: self._inputs(name, mixture, step, params) for name in self.targets}
        return {name: float(self.targets[name].predict(row)[0]) for name, row in inputs.items()}

    def losses(
        self, shares: Array, step: float | Array, *, params: float | Array | None = None,
    ) -> Array:  # fmt: skip
        """Losses of many mixtures, (row, target); shares are (row, domain) in the fit's order.

        Infinite where a law is undefined at a share of 0.
        """
        columns = []
        for name, found in self.targets.items():
            inputs = self.inputs(name, shares, step, params=params)
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                columns.append(np.where(found.law.usable(inputs), found.predict(inputs), np.inf))
        return np.stack(columns, axis=1)

    def interval95(
        self, mixture: Mixture, step: float, *, params: float | None = None
    ) -> dict[str, tuple[float, float]]:
        """95% intervals for the losses that a new run would measure (intervals.py)."""
        intervals = {}
        for name, found in self.targets.items():
            inputs = self._inputs(name, mixture, step, params)
            predicted, width = float(found.predict(inputs)[0]), float(self._widths(name, inputs)[0])
            intervals[name] = (predicted * np.exp(-width), predicted * np.exp(width))
        return intervals

    def interval_widths(
        self, shares: Array, steps: float | Array, params: float | Array | None = None
    ) -> Array:
        """Half the 95% intervals' widths in log loss for many mixtures, (row, target)."""
        found = [
            self._widths(name, self.inputs(name, shares, steps, params=params))
            for name in self.targets
        ]
        return np.stack(found, axis=1)

    def prediction_errors(
        self, mixture: Mixture, step: float, *, params: float | None = None,
        targets: Collection[str] | None = None,
    ) -> dict[str, float | None]:  # fmt: skip
        """Standard error in nats of every target's prediction, or of those named in `targets`.

        From the parameters' covariance: it says how well the parameters are known, not how well
        the law holds; None where the covariance is not known.
        """
        errors: dict[str, float | None] = {}
        for name in self.targets if targets is None else targets:
            found = self.target(name)
            inputs = self._inputs(name, mixture, step, params)
            if found.log_covariance is None:
                errors[name] = None
                continue
            relative = parameter_variances(self._signed(name), found, inputs)[0] ** 0.5
            errors[name] = float(found.law.predict(found.values, inputs)[0] * relative)
        return errors

    def surface(self, step: float, *, params: float | None = None) -> Surface:
        """What solvers see at one step and model size: losses and slopes over mixtures."""
        return surface(self, step, params=params)

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

    def inputs(
        self, target: str, shares: Array, step: float | Array, *,
        params: float | Array | None = None,
    ) -> Inputs:  # fmt: skip
        """What the target's law sees of mixtures (row, domain): floored, without repeats."""
        rows = len(shares)
        steps = np.broadcast_to(np.asarray(step, dtype=float), (rows,))
        wrong = steps[~(np.isfinite(steps) & (steps > 0))]
        if len(wrong):
            raise InvalidBudget(f"A step must be above 0, not {wrong[0]}.")
        law = self.targets[target].law
        own = self.domains.index(target) if target in self.domains else None
        unique = steps if law.needs_unique_tokens else np.full(rows, np.nan)
        floored = np.maximum(shares, self.share_floor or 0.0)
        return Inputs(floored, steps, own, self._sizes(law, params, rows), unique)

    def _sizes(self, law: Law, params: float | Array | None, rows: int) -> Array:
        if params is None and self.sizes_seen and self.sizes_seen[0] == self.sizes_seen[1]:
            params = self.sizes_seen[0]
        if params is None and law.needs_params:
            raise InvalidBudget(
                f"The law {law.name} compares model sizes; give params, the number of parameters "
                "of the model to predict."
            )
        sizes = np.broadcast_to(np.asarray(np.nan if params is None else params, float), (rows,))
        wrong = sizes[~np.isnan(sizes) & ~(np.isfinite(sizes) & (sizes > 0))]
        if len(wrong):
            raise InvalidBudget(f"A model's number of parameters must be above 0, not {wrong[0]}.")
        return sizes

    def _inputs(self, target: str, mixture: Mixture, step: float, params: float | None) -> Inputs:
        unknown = [name for name in mixture.domains if name not in self.domains]
        if unknown and self.domains:
            raise InvalidMixture(
                f"The fit knows no domain {', '.join(map(repr, unknown))}; "
                f"it was made on {', '.join(self.domains)}."
            )
        shares = mixture.shares(self.domains)[None, :]
        inputs = self.inputs(target, shares, step, params=params)
        law = self.targets[target].law
        if not law.usable(inputs)[0]:
            raise InvalidMixture(
                f"The mixture gives {target!r} a share of 0, where the law {law.name} is "
                "undefined; give it a share above 0, or fit with a share floor."
            )
        return inputs

    def _signed(self, target: str) -> Mask:
        own = self.domains.index(target) if target in self.domains else None
        parameters = self.targets[target].law.parameters(self.domains, own)
        return np.array([parameter.signed for parameter in parameters], dtype=bool)

    def _widths(self, target: str, inputs: Inputs) -> Array:
        return half_widths(
            self.targets[target], self._signed(target), inputs, self.steps_seen, self.sizes_seen
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form that `from_dict` reads back."""
        from mixlab.fitting.serial import fit_to_dict

        return fit_to_dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Fit":
        """What `to_dict` wrote. Raises UnknownLaw, or InvalidTable where it isn't a fit."""
        from mixlab.fitting.serial import fit_from_dict

        return fit_from_dict(data)
