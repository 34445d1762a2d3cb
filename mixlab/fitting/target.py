"""One target's fitted law: parameters, their errors, and how far to trust them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from mixlab.fitting.intervals import HeldOut, Residual
from mixlab.fitting.uncertainty import ErrorKind
from mixlab.laws import Inputs, Law
from mixlab.mixture import Array


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
    # Log errors on rows whose mixtures were left out, (row,), and those mixtures'
    # numbers; not saved.
    heldout_errors: Array | None = field(default=None, compare=False, repr=False)
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
