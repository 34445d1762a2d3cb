"""How well a law fitted to one table predicts another: the numbers that published laws report.

    mre_percent   100 * mean |predicted - measured| / measured
    spearman      rank correlation of predicted and measured losses
    r2            1 - sum (predicted - measured)^2 / sum (measured - mean measured)^2
    coverage95    part of the measured losses that lie in their 95% prediction interval

Each over the rows of one target, then the plain mean over targets. Domains and targets are matched
by name, never by position.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from time import perf_counter
from typing import Any

import numpy as np
from scipy.stats import rankdata

from mixlab.errors import InvalidMixture, InvalidTable
from mixlab.fitting import Fit
from mixlab.mixture import Array
from mixlab.runs import Observations


@dataclass(frozen=True)
class Score:
    """One target's numbers, or their means; None where the rows can't tell them."""

    mre_percent: float | None
    spearman: float | None
    r2: float | None
    n: float  # rows
    coverage95: float | None


@dataclass(frozen=True)
class Scores:
    """What `score` found."""

    law: str  # as it was asked for: a name, or "auto"
    laws: Mapping[str, str]  # by target, the law that predicted it
    targets: Mapping[str, Score]
    mean: Score
    seconds: float  # of the whole fit, choosing and calibration included
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {
            "law": self.law,
            "targets": {
                name: {"law": self.laws[name], **asdict(one)} for name, one in self.targets.items()
            },
            "mean": asdict(self.mean),
            "seconds": self.seconds,
            "notes": list(self.notes),
        }


def score(fitted: Callable[[], Fit], test: Observations, *, law: str) -> Scores:
    """Time a fit, and hold its predictions against the rows of another table.

    Raises InvalidMixture where the table gives a share to a domain that the fit does not know, and
    InvalidTable where it has no target of the fit, or lacks tokens or sizes that the laws see.
    """
    started = perf_counter()
    fit = fitted()
    seconds = perf_counter() - started
    notes: list[str] = []
    shares = _matched(fit, test, notes)
    targets = _shared_targets(fit, test, notes)
    steps, params = _steps(fit, test, notes), _params(fit, test, notes)
    predicted = fit.losses(shares, steps, params=params)
    widths = fit.interval_widths(shares, steps, params)
    found = {}
    for name in targets:
        column = list(fit.targets).index(name)
        measured = test.losses_nats[:, test.targets.index(name)]
        found[name] = _score(predicted[:, column], widths[:, column], measured)
        missed = int(np.sum(~np.isnan(measured) & ~np.isfinite(predicted[:, column])))
        if missed:
            notes.append(
                f"{name}: {missed} rows have a share of 0, where {fit.targets[name].law.name} is "
                "undefined; they do not count"
            )
    return Scores(
        law=law,
        laws={name: fit.targets[name].law.name for name in targets},
        targets=found,
        mean=_mean(list(found.values())),
        seconds=seconds,
        notes=(*fit.notes, *notes),
    )


def _matched(fit: Fit, test: Observations, notes: list[str]) -> Array:
    """Shares in the order of the fit's domains, (row, domain)."""
    if not fit.domains:
        return np.zeros((len(test), 0))
    used = [name for name, shares in zip(test.domains, test.proportions.T, strict=True)
            if np.any(shares > 0)]  # fmt: skip
    strange = [name for name in used if name not in fit.domains]
    if strange:
        raise InvalidMixture(
            f"The table to predict gives shares to {_listed(strange)}, which the fit does not "
            f"know; it was made on {_listed(fit.domains)}. Rename the columns, or fit a table "
            "that has these domains."
        )
    lacking = [name for name in fit.domains if name not in test.domains]
    if lacking:
        notes.append(
            f"the table to predict has no column of {_listed(lacking)}; their share is taken as 0"
        )
    columns = [
        test.proportions[:, test.domains.index(name)] if name in test.domains
        else np.zeros(len(test))
        for name in fit.domains
    ]  # fmt: skip
    return np.stack(columns, axis=1)


def _shared_targets(fit: Fit, test: Observations, notes: list[str]) -> list[str]:
    shared = [name for name in fit.targets if name in test.targets]
    if not shared:
        raise InvalidTable(
            f"The table to predict has the targets {_listed(test.targets)}, the fit "
            f"{_listed(list(fit.targets))}: none in common."
        )
    unmeasured = [name for name in fit.targets if name not in shared]
    unknown = [name for name in test.targets if name not in shared]
    if unmeasured:
        notes.append(f"{_listed(unmeasured)} is not in the table to predict")
    for name in unknown:
        why = fit.left_out_targets.get(name, "the fitted table does not have it")
        notes.append(f"{name} is not predicted: {why}")
    return shared


def _steps(fit: Fit, test: Observations, notes: list[str]) -> Array:
    steps = test.tokens if fit.step_unit == "tokens" else _in_steps(fit, test)
    if np.isnan(steps).any() or np.any(steps <= 0):
        raise InvalidTable(
            f"The fit counts {fit.step_unit}, which {int(np.isnan(steps).sum())} rows of the table "
            f"to predict lack; give it a column {fit.step_unit.removesuffix('s')!r} as well."
            if fit.step_unit == "steps"
            else "The fit counts tokens, which the table to predict does not tell for every row; "
            "add a column 'tokens'."
        )
    first, last = fit.steps_seen
    outside = int(np.sum((steps < first) | (steps > last)))
    if outside:
        notes.append(
            f"{outside} of {len(steps)} rows to predict, at {steps.min():g} to {steps.max():g} "
            f"{fit.step_unit}, are outside those fitted, {first:g} to {last:g}"
        )
    return steps


def _in_steps(fit: Fit, test: Observations) -> Array:
    """A table that counts tokens alone, in the steps of the fit."""
    per_step = fit.tokens_per_step
    if per_step == 1 or not np.array_equal(test.steps, test.tokens):
        return test.steps
    if per_step is None:
        raise InvalidTable(
            "The fit counts steps, the table to predict tokens alone, and the fitted table does "
            "not tell the tokens of a step; give either the other's column, 'step' or 'tokens'."
        )
    return test.tokens / per_step


def _params(fit: Fit, test: Observations, notes: list[str]) -> Array | None:
    sizes = test.params
    needing = sorted({one.law.name for one in fit.targets.values() if one.law.needs_params})
    if needing and np.isnan(sizes).any():
        raise InvalidTable(
            f"{_listed(needing)} sees the model's size, which the table to predict does not tell "
            "for every row; add a column 'params'."
        )
    if np.isnan(sizes).any():
        return None
    if not needing and fit.sizes_seen and set(np.unique(sizes)) - set(fit.sizes_seen):
        notes.append(
            f"models to predict have {_range(sizes)} parameters, fitted ones "
            f"{_range(np.array(fit.sizes_seen))}, and the law sees no size: only the ranks of its "
            "predictions may be believed"
        )
    return sizes


def _range(sizes: Array) -> str:
    low, high = float(sizes.min()), float(sizes.max())
    return f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"


def _score(predicted: Array, widths: Array, measured: Array) -> Score:
    told = np.isfinite(predicted) & ~np.isnan(measured)
    predicted, widths, measured = predicted[told], widths[told], measured[told]
    if not len(measured):
        return Score(None, None, None, 0, None)
    total = float(np.sum((measured - measured.mean()) ** 2))
    inside = np.abs(np.log(measured) - np.log(predicted)) <= widths
    return Score(
        mre_percent=100 * float(np.mean(np.abs(predicted - measured) / measured)),
        spearman=_spearman(predicted, measured),
        r2=1 - float(np.sum((predicted - measured) ** 2)) / total if total > 0 else None,
        n=len(measured),
        coverage95=None if np.isnan(widths).any() else float(np.mean(inside)),
    )


def _spearman(predicted: Array, measured: Array) -> float | None:
    one, other = rankdata(predicted), rankdata(measured)
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])


def _mean(scores: Sequence[Score]) -> Score:
    """The mean of each number over the targets that have it."""
    means: dict[str, Any] = {}
    for field in fields(Score):
        known = [value for one in scores if (value := getattr(one, field.name)) is not None]
        means[field.name] = float(np.mean(known)) if known else None
    return Score(**means)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:10]))
    return shown + (f" and {len(names) - 10} more" if len(names) > 10 else "")
