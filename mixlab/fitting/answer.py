"""Fits: the laws of all targets, what they predict, and their form as JSON."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

import numpy as np

from mixlab.errors import InvalidBudget, InvalidMixture, InvalidTable
from mixlab.fitting.intervals import half_widths, parameter_variances
from mixlab.fitting.serial import check_target, target_from_dict, target_to_dict
from mixlab.fitting.surface import Surface, sees_sizes, surface
from mixlab.fitting.target import TargetFit
from mixlab.laws import Inputs, Law, Mask
from mixlab.mixture import Array, Mixture

StepUnit = Literal["steps", "tokens"]


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
    shares_seen: Mapping[str, tuple[float, float]]  # per domain, over the rows used
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
        if tokens_per_step is not None and not (isfinite(tokens_per_step) and tokens_per_step > 0):
            raise InvalidBudget(f"Tokens per step must be above 0, not {tokens_per_step}.")
        per_step = self.tokens_per_step if tokens_per_step is None else tokens_per_step
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
        found = self.targets[target]
        law = found.law
        own = self.domains.index(target) if target in self.domains else None
        unique = steps if law.needs_unique_tokens else np.full(rows, np.nan)
        floored = np.maximum(shares, self.share_floor or 0.0)
        return Inputs(floored, steps, own, self._sizes(found, params, rows), unique)

    def _sizes(self, found: TargetFit, params: float | Array | None, rows: int) -> Array:
        if params is None and self.sizes_seen and self.sizes_seen[0] == self.sizes_seen[1]:
            params = self.sizes_seen[0]
        if params is None and sees_sizes(found, self.sizes_seen):
            raise InvalidBudget(
                f"The law {found.law.name} compares model sizes; give params, the number of "
                "parameters of the model to predict."
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
        laws = {found.law.name: found.law for found in self.targets.values()}
        return {
            "law": self.law_name,
            "formula": "; ".join(f"{name}: {one.formula}" for name, one in laws.items())
            if len(laws) > 1 else next(iter(laws.values())).formula,
            "domains": list(self.domains),
            "step_unit": self.step_unit,
            "steps_seen": list(self.steps_seen),
            "sizes_seen": self.sizes_seen and list(self.sizes_seen),
            "tokens_per_step": self.tokens_per_step,
            "shares_seen": {name: list(seen) for name, seen in self.shares_seen.items()},
            "share_floor": self.share_floor,
            "left_out_targets": dict(self.left_out_targets),
            "notes": list(self.notes),
            "targets": {name: target_to_dict(found) for name, found in self.targets.items()},
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Fit":
        """What `to_dict` wrote. Raises UnknownLaw, or InvalidTable where it isn't a fit."""
        try:
            sizes = data.get("sizes_seen")
            found = cls(
                law_name=data["law"],
                domains=tuple(data["domains"]),
                targets={
                    name: target_from_dict(name, one, data["law"])
                    for name, one in data["targets"].items()
                },
                left_out_targets=dict(data["left_out_targets"]),
                share_floor=data["share_floor"],
                step_unit=data["step_unit"],
                steps_seen=(data["steps_seen"][0], data["steps_seen"][1]),
                tokens_per_step=data["tokens_per_step"],
                shares_seen={name: (a, b) for name, (a, b) in data["shares_seen"].items()},
                sizes_seen=None if sizes is None else (sizes[0], sizes[1]),
                notes=tuple(data.get("notes", ())),
            )
            _check(found)
            return found
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise InvalidTable(
                f"This is not a saved fit ({type(error).__name__}: {error}); "
                "write one with `mixlab fit TABLE --output fit.json`."
            ) from error


def _check(found: Fit) -> None:
    """Raises ValueError where the parts of a fit that was read don't belong together."""
    known, floor, per_step = set(found.domains), found.share_floor, found.tokens_per_step
    sound = {
        "targets": bool(found.targets),
        "domains": len(known) == len(found.domains) and known.issuperset(found.shares_seen),
        "share_floor": floor is None or 0 < floor < 1,
        "tokens_per_step": per_step is None or per_step > 0,
        "step_unit": found.step_unit in ("steps", "tokens"),
        "steps_seen": all(isfinite(step) and step > 0 for step in found.steps_seen),
    }
    wrong = [name for name, fine in sound.items() if not fine]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} can't be so")
    for name, one in found.targets.items():
        own = found.domains.index(name) if name in known else None
        if one.residual is None or one.parameters:  # trees have none
            check_target(one, [each.name for each in one.law.parameters(found.domains, own)])
