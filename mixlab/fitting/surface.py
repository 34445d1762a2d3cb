"""What solvers see of a fit: losses and their slopes over mixtures, at one step and model size.

    loss_t(r) = law_t(r, step, params) * exp(residual_t(r, step, params))

Bootstrap replicates are the same laws with other parameters. A surface's values may hold many
parameter vectors at once, (..., parameter); its answers keep those leading axes, so that all
replicates are one call.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, cast

import numpy as np

from mixlab.errors import InvalidBudget, InvalidTable
from mixlab.laws import Inputs, Law, Mask
from mixlab.mixture import Array


class FittedTarget(Protocol):
    """What a surface needs of one target's fit; TargetFit is such."""

    @property
    def law(self) -> Law: ...
    @property
    def values(self) -> Array: ...
    @property
    def residual(self) -> Any: ...
    @property
    def replicates(self) -> Array | None: ...


class Fitted(Protocol):
    """What a surface needs of a fit; Fit is such."""

    @property
    def domains(self) -> tuple[str, ...]: ...
    @property
    def targets(self) -> Mapping[str, FittedTarget]: ...
    @property
    def share_floor(self) -> float | None: ...
    @property
    def sizes_seen(self) -> tuple[float, float] | None: ...


@dataclass(frozen=True)
class Part:
    """One target of a surface."""

    target: str
    law: Law
    values: Array  # (..., parameter)
    own: int | None  # column of the domain that the target is named after
    residual: Any = None  # what is fitted to the law's log residuals: Process, Trees or nothing
    members: Array | None = None  # bootstrap replicates of the values, (replicate, parameter)

    def losses(self, inputs: Inputs) -> Array:
        """Nats per token, (..., row)."""
        plain = self.law.predict(self.values, inputs)
        if self.residual is None:
            return plain
        return np.asarray(plain * np.exp(self.residual.predict(inputs)[0]))

    def gradients(self, inputs: Inputs) -> Array:
        """Slope of the loss by each share, (..., row, domain)."""
        slope = self.law.share_gradient(self.values, inputs)
        if self.residual is None:
            return slope
        level = np.exp(self.residual.predict(inputs)[0])
        rise = self.law.predict(self.values, inputs)[..., None] * np.asarray(
            self.residual.share_gradient(inputs)
        )
        return np.asarray((slope + rise) * level[..., None])


@dataclass(frozen=True)
class Surface:
    """Losses over mixtures at a fixed step and model size; shares are (row, domain).

    Shares below the share floor are read as the floor, as the fit reads them: below it the
    surface is flat, and convex only above.
    """

    domains: tuple[str, ...]
    parts: tuple[Part, ...]
    step: float
    params: float = float("nan")
    share_floor: float = 0.0

    @property
    def targets(self) -> tuple[str, ...]:
        """Names in the order of the answers' columns."""
        return tuple(part.target for part in self.parts)

    @property
    def convex(self) -> bool:
        """Whether every loss is convex in the shares, above the share floor."""
        return all(
            part.law.convex and (part.residual is None or getattr(part.residual, "convex", False))
            for part in self.parts
        )

    @property
    def smooth(self) -> bool:
        """Whether the losses have slopes: not where residuals are trees."""
        return all(
            part.law.residual != "trees" and getattr(part.residual, "smooth", True)
            for part in self.parts
        )

    @property
    def defined_at_zero(self) -> Mask:
        """Per target, whether its loss is finite where shares are 0, (target,)."""
        above = self.share_floor > 0
        return np.array([above or part.law.zero_shares for part in self.parts])

    @cached_property
    def replicates(self) -> tuple["Surface", ...]:
        """A surface per bootstrap replicate; none without a bootstrap."""
        stack = self.stacked
        if stack is None:
            return ()
        count = min(len(part.values) for part in stack.parts)
        return tuple(
            replace(
                stack, parts=tuple(replace(part, values=part.values[i]) for part in stack.parts)
            )
            for i in range(count)
        )

    @cached_property
    def stacked(self) -> "Surface | None":
        """All replicates in one surface, whose answers lead with (replicate,)."""
        found = [part.members for part in self.parts]
        if not found or any(members is None for members in found):
            return None
        sets = cast("list[Array]", found)
        count = min(map(len, sets))
        return replace(
            self,
            parts=tuple(
                replace(part, values=np.asarray(members)[:count], members=None)
                for part, members in zip(self.parts, sets, strict=True)
            ),
        )

    def only(self, targets: Collection[str]) -> "Surface":
        """The surface of these targets, in its own order. Raises InvalidTable for others."""
        for name in targets:
            if name not in self.targets:
                raise InvalidTable(
                    f"There is no fit of target {name!r}; there are {', '.join(self.targets)}."
                )
        return replace(self, parts=tuple(part for part in self.parts if part.target in targets))

    def losses(self, shares: Array) -> Array:
        """Nats per token, (..., row, target)."""
        inputs = self._inputs(shares)
        return np.stack([part.losses(one) for part, one in inputs], axis=-1)

    def gradients(self, shares: Array) -> Array:
        """Slope of each loss by each share at one mixture (domain,): (..., target, domain)."""
        inputs = self._inputs(shares[None, :])
        slopes = [part.gradients(one)[..., 0, :] for part, one in inputs]
        return np.stack(slopes, axis=-2) * self._above(shares)

    def weighted_gradients(self, shares: Array, weights: Array) -> Array:
        """Slope of sum weights * losses at each row, (row, domain); weights are (..., target)."""
        answer = np.zeros(shares.shape)
        for index, (part, one) in enumerate(self._inputs(shares)):
            weight = weights[..., index]
            if weight.any():
                slopes = part.gradients(one)
                answer += np.tensordot(weight, slopes, axes=1) if weight.ndim else weight * slopes
        return answer * self._above(shares)

    def _above(self, shares: Array) -> Array:
        """1 where a share counts as it is, 0 below the floor, where the surface is flat."""
        return np.where(shares < self.share_floor, 0.0, 1.0)

    def _inputs(self, shares: Array) -> Iterator[tuple[Part, Inputs]]:
        rows = np.maximum(shares, self.share_floor) if self.share_floor else shares
        steps, params = np.full(len(rows), self.step), np.full(len(rows), self.params)
        unknown = np.full(len(rows), np.nan)
        for part in self.parts:
            # No repeats: what they are worth is the solver's to say (mixlab.solvers.repetition).
            unique = steps if part.law.needs_unique_tokens else unknown
            yield part, Inputs(rows, steps, part.own, params, unique)


def surface(fit: Fitted, step: float, *, params: float | None = None) -> Surface:
    """The surface of a fit at a step in its step unit, and at a model size where laws see it.

    Raises InvalidBudget for a step or size that is none, or a size that is missing.
    """
    if not np.isfinite(step) or step <= 0:
        raise InvalidBudget(f"A step must be above 0, not {step}.")
    parts = tuple(_part(fit, name) for name in fit.targets)
    return Surface(
        domains=fit.domains,
        parts=parts,
        step=float(step),
        params=_size(fit, parts, params),
        share_floor=fit.share_floor or 0.0,
    )


def _part(fit: Fitted, name: str) -> Part:
    found = fit.targets[name]
    return Part(
        target=name,
        law=found.law,
        values=found.values,
        own=fit.domains.index(name) if name in fit.domains else None,
        residual=found.residual,
        members=found.replicates,
    )


def _size(fit: Fitted, parts: tuple[Part, ...], params: float | None) -> float:
    if params is not None:
        if not np.isfinite(params) or params <= 0:
            raise InvalidBudget(f"A model's parameters must be above 0, not {params}.")
        return float(params)
    seen = fit.sizes_seen
    if seen is not None and seen[0] == seen[1]:
        return float(seen[0])
    needing = [part.target for part in parts if sees_sizes(part, seen)]
    if needing:
        raise InvalidBudget(
            f"The law of {', '.join(map(repr, needing))} depends on the model's size; "
            "give params, its number of parameters."
        )
    return float("nan")


def sees_sizes(found: "Part | FittedTarget", sizes_seen: tuple[float, float] | None) -> bool:
    """Whether the model's size changes a prediction: by the law, or by what is fitted on top."""
    several = sizes_seen is not None and sizes_seen[0] < sizes_seen[1]
    return found.law.needs_params or (several and found.residual is not None)
