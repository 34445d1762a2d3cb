"""Fitting a law to observations, target by target.

A target named like a domain uses that domain's share. Rows whose own share is 0 are
outside a power law: they are left out and counted, or, with a share floor, read as if
the share were that floor. Losses that were not measured (NaN) are skipped and counted.
"""

from collections.abc import Iterable
from math import isfinite

import numpy as np

from mixlab.errors import InvalidLoss, InvalidTable, TooFewMixtures
from mixlab.fitting.answer import Fit, FitStatus, StepUnit, TargetFit
from mixlab.fitting.least_squares import SMALLEST_SCALE, Estimate, estimate, noise
from mixlab.fitting.problem import Problem
from mixlab.fitting.profile import profiled
from mixlab.fitting.uncertainty import Uncertainty, uncertainty, unresolved
from mixlab.laws import Inputs, Law
from mixlab.mixture import Array
from mixlab.runs import Observations

# Shares and steps closer than this, relatively, are the same value.
SAME = 1e-6


def fit(
    law: Law,
    observations: Observations,
    *,
    share_floor: float | None = None,
    profiles: bool = True,
) -> Fit:
    """The law fitted to every target that it can speak of.

    Without `profiles`, intervals of vague parameters are the quick ones of profile.py's parabola.

    Raises TooFewMixtures, InvalidLoss (infinite or not positive; NaN means not measured), and
    InvalidTable where no target is named like a domain or the share floor is no share.
    """
    if share_floor is not None and not 0 < share_floor < 1:
        raise InvalidTable(f"A share floor must lie between 0 and 1, not {share_floor}.")
    _check_losses(observations)
    left_out = _left_out(law, observations)
    wanted = [target for target in observations.targets if target not in left_out]
    if not wanted:
        raise InvalidTable(
            f"The law {law.name} needs targets named like domains; the targets are "
            f"{', '.join(observations.targets)}, the domains {', '.join(observations.domains)}."
        )
    clusters = observations.mixture_index()
    steps = observations.steps
    return Fit(
        law=law,
        domains=observations.domains,
        targets={name: _fit_target(law, observations, name, share_floor, clusters, profiles)
                 for name in wanted},
        left_out_targets=left_out,
        share_floor=share_floor,
        step_unit=_step_unit(observations),
        steps_seen=(float(steps.min()), float(steps.max())),
        tokens_per_step=_tokens_per_step(observations),
        shares_seen=_shares_seen(observations),
    )  # fmt: skip


def _check_losses(observations: Observations) -> None:
    bad = np.argwhere(np.isinf(observations.losses_nats) | (observations.losses_nats <= 0))
    if not len(bad):
        return
    row, column = bad[0]
    raise InvalidLoss(
        f"Run {observations.runs[row]!r} has a loss of {observations.losses_nats[row, column]} "
        f"for target {observations.targets[column]!r} at step {observations.steps[row]:g} "
        f"({len(bad)} such losses in all); losses must be finite and above 0. Leave out runs "
        "that diverged, and leave cells blank where nothing was measured."
    )


def _left_out(law: Law, observations: Observations) -> dict[str, str]:
    if not law.needs_own_share:
        return {}
    return {
        target: f"no domain has this name, and {law.name} needs the own domain's share"
        for target in observations.targets
        if target not in observations.domains
    }


def _step_unit(observations: Observations) -> StepUnit:
    same = np.array_equal(observations.steps, observations.tokens)
    return "tokens" if same else "steps"


def _tokens_per_step(observations: Observations) -> float | None:
    per_step = observations.tokens / observations.steps
    known = per_step[np.isfinite(per_step)]
    if not len(known) or np.ptp(known) > SAME * known[0]:
        return None
    return float(known[0])


def _shares_seen(observations: Observations) -> dict[str, tuple[float, float]]:
    seen = {}
    for name, column in zip(observations.domains, observations.proportions.T, strict=True):
        present = column[column > 0]
        if len(present):
            seen[name] = (float(present.min()), float(present.max()))
    return seen


def _fit_target(
    law: Law, observations: Observations, target: str, floor: float | None, clusters: np.ndarray,
    profiles: bool,
) -> TargetFit:  # fmt: skip
    losses = observations.losses_nats[:, observations.targets.index(target)]
    own = observations.domains.index(target) if target in observations.domains else None
    shares = np.maximum(observations.proportions, floor or 0.0)
    inputs = Inputs(
        shares, observations.steps, own, observations.params, observations.unique_tokens
    )
    measured, usable = ~np.isnan(losses), law.usable(inputs)
    rows = measured & usable
    _check_mixtures(law, target, clusters[rows], excluded=int((measured & ~usable).sum()))
    parameters = law.parameters(observations.domains, own)
    problem = Problem(law, parameters, inputs.take(rows), losses[rows])
    raised = np.zeros_like(rows) if own is None else observations.proportions[:, own] < (floor or 0)
    return _described(
        problem,
        target,
        clusters[rows],
        profiles,
        excluded_rows=int((measured & ~usable).sum()),
        floored_rows=int((raised & rows).sum()),
        missing_rows=int((~measured).sum()),
    )


def _check_mixtures(law: Law, target: str, clusters: np.ndarray, *, excluded: int) -> None:
    found = len(np.unique(clusters))
    if found >= law.minimum_mixtures:
        return
    without = f" ({excluded} rows give it a share of 0, outside the law)" if excluded else ""
    raise TooFewMixtures(
        f"Target {target!r} was measured under {found} usable "
        f"{'mixture' if found == 1 else 'mixtures'}{without}; {law.name} "
        f"needs at least {law.minimum_mixtures}. Train proxy runs on more mixtures."
    )


def _untold(problem: Problem) -> dict[str, str]:
    """Parameters that shares or steps vary too little to tell, with the reason."""
    steps = _distinct(problem.inputs.steps)
    shares = steps if problem.inputs.own is None else _distinct(problem.inputs.own_share)
    untold = {}
    for parameter in problem.parameters:
        if problem.inputs.own is not None and shares < parameter.distinct_shares:
            untold[parameter.name] = (
                f"the share is {problem.inputs.own_share[0]:.4g} in every row, so "
                f"{parameter.name} can't be told"
            )
        if steps < parameter.distinct_steps:
            untold[parameter.name] = (
                f"there {'is 1 step' if steps == 1 else f'are {steps} steps'}, and "
                f"{parameter.name} needs {parameter.distinct_steps}"
            )
    return untold


def _distinct(values: Array) -> int:
    """How many values differ by more than rounding."""
    logs = np.sort(np.log(values))
    return 1 + int(np.sum(np.diff(logs) > SAME))


def _described(
    problem: Problem, target: str, clusters: np.ndarray, profiles: bool, *,
    excluded_rows: int, floored_rows: int, missing_rows: int,
) -> TargetFit:  # fmt: skip
    """The estimate, its errors and its status as one value."""
    untold = _untold(problem)
    limits = {parameter.name: parameter.limit for parameter in problem.parameters}
    found = estimate(problem, {name: limits[name] for name in untold}, clusters)
    known = uncertainty(problem, found, clusters)
    traded = () if untold else unresolved(problem, found)
    residuals, logs = problem.residuals(found.values), np.log(problem.losses)
    total = float(np.sum((logs - logs.mean()) ** 2))
    errors, intervals = _intervals(problem, found, known)
    if profiles and known.kind != "none" and found.scale > SMALLEST_SCALE:
        intervals |= profiled(problem, found, known)
    names = [parameter.name for parameter in problem.parameters]
    covariance = known.covariance
    return TargetFit(
        target=target,
        parameters=dict(zip(names, found.values.tolist(), strict=True)),
        source_form={name: value if isfinite(value) else None
                     for name, value in problem.law.source_form(found.values).items()},
        standard_errors=errors,
        interval95=intervals,
        status=_status(found, (*untold, *traded)),
        at_bound=found.at_bound,
        unidentified=(*untold, *traded),
        reason=_reason(found, untold.values(), traded),
        error_kind=known.kind,
        log_covariance=None if known.kind == "none" else tuple(map(tuple, covariance.tolist())),
        noise_percent=100 * noise(problem, found),
        r2_log_loss=1 - float(np.sum(residuals**2)) / total if total > 0 else None,
        train_mre_percent=100 * float(np.mean(np.abs(np.expm1(residuals)))),
        rows=len(residuals),
        mixtures=len(np.unique(clusters)),
        excluded_rows=excluded_rows,
        floored_rows=floored_rows,
        missing_rows=missing_rows,
    )  # fmt: skip


def _intervals(
    problem: Problem, found: Estimate, known: Uncertainty
) -> tuple[dict[str, float | None], dict[str, tuple[float, float] | None]]:
    """Standard errors, and intervals symmetric in the logarithm since parameters are positive."""
    errors: dict[str, float | None] = {}
    intervals: dict[str, tuple[float, float] | None] = {}
    for index, parameter in enumerate(problem.parameters):
        errors[parameter.name] = intervals[parameter.name] = None
        if not found.free[index] or parameter.name in found.at_bound or known.kind == "none":
            continue
        value, log_error = float(found.values[index]), float(known.covariance[index, index]) ** 0.5
        errors[parameter.name] = value * log_error
        # Beyond e^300 the interval says nothing, and JSON has no infinity.
        reach = float(np.exp(min(known.quantile * log_error, 300.0)))
        intervals[parameter.name] = (value / reach, value * reach)
    return errors, intervals


def _status(found: Estimate, unidentified: tuple[str, ...]) -> FitStatus:
    if not found.converged:
        return FitStatus.BUDGET_EXHAUSTED
    if unidentified:
        return FitStatus.NOT_IDENTIFIABLE
    return FitStatus.AT_BOUND if found.at_bound else FitStatus.CONVERGED


def _reason(found: Estimate, untold: Iterable[str], traded: tuple[str, ...]) -> str | None:
    reasons = list(untold)
    if traded:
        reasons.append(f"{' and '.join(traded)} trade off without changing any prediction")
    if found.at_bound:
        reasons.append(f"the losses push {' and '.join(found.at_bound)} to the end of the range")
    if not found.converged:
        reasons.append("the search used up its evaluations")
    return "; ".join(reasons) or None
