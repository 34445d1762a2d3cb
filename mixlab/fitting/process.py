"""A Gaussian process on the log residuals that a parametric law leaves.

    log loss = log law(r, s, N) + f(r, s, N)

`places.py` says where mixtures lie, `kernels.py` what is assumed of f. Hyperparameters are those of
the highest marginal likelihood (Rasmussen & Williams 2006, section 5.4.1), rows that stray count
less (the weights of a Student t, from residuals of fits that had not seen the row's mixture).

f goes to 0 far from the mixtures seen, and beyond the steps and sizes seen it stays what it was at
their end. It is used only if it predicts mixtures that it has not seen better than 0 does, by the
closed form of leave-one-out (Sundararajan & Keerthi 2001) over whole mixtures: otherwise the answer
is 0 everywhere, and says so.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mixlab.fitting.kernels import (
    Distances,
    Hyper,
    PseudoRows,
    covariance,
    inverse,
    likeliest,
    matern,
    overlaps,
    polished,
    reduced,
    self_overlaps,
)
from mixlab.fitting.places import Places
from mixlab.laws import Inputs, Law
from mixlab.mixture import Array

LEAST_MIXTURES = 8  # below, nothing can be learnt from what they have in common
# Mixtures that hyperparameters are searched on; more only tell the noise's part. On RegMix's 512
# runs the held-out error is 0.717% so, 0.763% without the noise's part, 0.708% searched on all.
MOST_SEARCHED = 256
STRAY = 2.0  # residual scales at which a row counts half
ROUNDS = 2
SMALLEST_SCALE = 1e-7
STANDARD_ERRORS = 1.5  # by which held-out mixtures must gain: pure noise does in 1 of 20 tables


@dataclass(frozen=True)
class Axis:
    """Log step or log size, as -1 to 1 over what was seen; level beyond."""

    middle: float
    half: float

    @classmethod
    def over(cls, values: Array) -> "Axis":
        """The range of positive values; no slope where there is one alone, or some are unknown."""
        logs = np.log(values) if np.isfinite(values).all() else np.zeros(1)
        half = float(np.ptp(logs)) / 2
        return cls(float(logs.min()) + half, half if half > 1e-6 else 0.0)

    def at(self, values: Array) -> Array:
        """Positions, (row,)."""
        return np.asarray(np.clip((np.log(values) - self.middle) / self.half, -1.0, 1.0))


@dataclass(frozen=True)
class Process:
    """What is known of a law's residual; `shares` and `rows` are empty where it doesn't help."""

    places: Places
    axes: tuple[Axis, Axis]  # steps, sizes
    hyper: Hyper
    scale: float  # of the residuals in log loss, the unit of `hyper`
    shares: Array  # (mixture, domain)
    rows: PseudoRows
    reason: str  # in words, why it is used or not

    smooth = True

    @property
    def used(self) -> bool:
        """False where held-out mixtures gain nothing, and the mean is 0 everywhere."""
        return len(self.rows.seen) > 0

    @cached_property
    def _coordinates(self) -> Array:
        return np.asarray(self.places.coordinates(self.shares)[self.rows.mixture])

    @cached_property
    def _precision(self) -> Array:
        return _precision(self.rows, self.places.coordinates(self.shares), self.hyper)

    @cached_property
    def _pull(self) -> Array:
        return np.asarray(self._precision @ self.rows.seen)

    def predict(self, inputs: Inputs) -> tuple[Array, Array]:
        """Mean and standard deviation of f, each (row,): of what mixtures share, noise aside."""
        if not self.used:
            return np.zeros(len(inputs.steps)), np.zeros(len(inputs.steps))
        parts = _parts(self.axes, inputs)
        distances = Distances.between(
            self.places.coordinates(inputs.proportions), self._coordinates
        )
        kernel = matern(distances.scaled(self.hyper))[0]
        spread = self.hyper.amplitude**2
        to_seen = spread * overlaps(parts, self.rows.parts, self.hyper.tilt) * kernel
        prior = spread * self_overlaps(parts, self.hyper.tilt)
        left = prior - np.einsum("ij,ij->i", to_seen @ self._precision, to_seen)
        return self.scale * (to_seen @ self._pull), self.scale * np.sqrt(np.maximum(left, 0.0))

    def share_gradient(self, inputs: Inputs) -> Array:
        """Derivatives of the mean by the shares as if they were free, (row, domain)."""
        if not self.used:
            return np.zeros_like(inputs.proportions)
        here = self.places.coordinates(inputs.proportions)
        steepness = matern(Distances.between(here, self._coordinates).scaled(self.hyper))[1]
        overlap = overlaps(_parts(self.axes, inputs), self.rows.parts, self.hyper.tilt)
        felt = 2 * self.scale * self.hyper.amplitude**2 * overlap * steepness * self._pull
        # Sum over pseudo-rows p of felt_p * (x - x_p), per coordinate.
        away = here * felt.sum(axis=1)[:, None] - felt @ self._coordinates
        roots, levels = self.places.slopes(inputs.proportions)
        by_share = away[:, :-1] / self.hyper.share_length**2 * roots
        return np.asarray(by_share + away[:, -1:] / self.hyper.level_length**2 * levels)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form that `from_dict` reads back."""
        return {
            "kind": "process",
            "places": self.places.to_dict(),
            "axes": [[axis.middle, axis.half] for axis in self.axes],
            "hyper": asdict(self.hyper),
            "scale": self.scale,
            "shares": self.shares.tolist(),
            "mixture": self.rows.mixture.tolist(),
            "parts": self.rows.parts.tolist(),
            "seen": self.rows.seen.tolist(),
            "reason": self.reason,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Process":
        """What `to_dict` wrote."""
        mixture = np.array(data["mixture"], dtype=int)
        parts = np.array(data["parts"], dtype=float).reshape(len(mixture), -1)
        steps, sizes = (Axis(*axis) for axis in data["axes"])
        places = Places.from_dict(data["places"])
        return cls(
            places=places,
            axes=(steps, sizes),
            hyper=Hyper(**data["hyper"]),
            scale=float(data["scale"]),
            shares=np.array(data["shares"], dtype=float).reshape(-1, len(places.stretch)),
            rows=PseudoRows(mixture, parts, np.array(data["seen"], dtype=float), 0.0, 0),
            reason=str(data["reason"]),
        )


def fit_process(
    law: Law,
    values: Array,
    inputs: Inputs,
    log_residuals: Array,
    clusters: np.ndarray,
    *,
    like: Process | None = None,
) -> Process:
    """A process on log observed minus log predicted, (row,); `clusters` number the mixtures.

    With `like`, the process of the whole table, its hyperparameters and whether it is used are
    held, as a fold of a cross-validation needs.
    """
    _, first, mixture = np.unique(clusters, return_index=True, return_inverse=True)
    mixture = mixture.reshape(-1)
    table = _Table(
        places=Places.of(law, values, inputs, first),
        axes=(Axis.over(inputs.steps), Axis.over(inputs.params)) if like is None else like.axes,
        shares=inputs.proportions[first],
        mixture=mixture,
        inputs=inputs,
        residuals=log_residuals,
    )
    if like is not None and not like.used:
        return table.unused(like.reason)
    if like is None and len(first) < LEAST_MIXTURES:
        return table.unused(f"{len(first)} mixtures are too few for a process")
    return table.fitted(like)


@dataclass(frozen=True)
class _Table:
    """What a process is fitted to."""

    places: Places
    axes: tuple[Axis, Axis]
    shares: Array
    mixture: np.ndarray
    inputs: Inputs
    residuals: Array

    def fitted(self, like: Process | None) -> Process:
        """The process, after the rows that stray were found."""
        scale = like.scale if like else max(_spread(self.residuals), SMALLEST_SCALE)
        parts, values = _parts(self.axes, self.inputs), self.residuals / scale
        coordinates = self.places.coordinates(self.shares)
        weights, hyper = _weights(values), like.hyper if like else Hyper()
        for _ in range(ROUNDS):
            rows = reduced(self.mixture, parts, values, weights)
            if like is None:
                hyper = _searched(rows, coordinates, hyper)
            weights = _weights(self._missed(rows, coordinates, parts, values, weights, hyper))
        rows = reduced(self.mixture, parts, values, weights)
        gain, error = _gain(rows, _precision(rows, coordinates, hyper))
        reason = (
            f"the mean held-out miss falls by {100 * scale * gain:.2g} "
            f"+- {100 * scale * error:.1g} percentage points over {len(self.shares)} mixtures"
        )
        if like is None and gain <= STANDARD_ERRORS * error:
            return self.unused(f"not used: {reason}")
        return Process(self.places, self.axes, hyper, scale, self.shares, rows, reason)

    def unused(self, reason: str) -> Process:
        """A process that is 0 everywhere."""
        none = np.zeros(0)
        parts = 1 + sum(axis.half > 0 for axis in self.axes)
        rows = PseudoRows(none.astype(int), np.zeros((0, parts)), none, 0.0, 0)
        return Process(self.places, self.axes, Hyper(), 1.0, self.shares[:0], rows, reason)

    def _missed(
        self, rows: PseudoRows, coordinates: Array, parts: Array, values: Array, weights: Array,
        hyper: Hyper,
    ) -> Array:  # fmt: skip
        """What each row strays from its mixture's effect, or, if alone, from what f expects."""
        precision = _precision(rows, coordinates, hyper)
        pull = precision @ rows.seen
        apart = Distances.between(coordinates, coordinates).at(self.mixture, rows.mixture)
        same = self.mixture[:, None] == rows.mixture
        alike = hyper.amplitude**2 * matern(apart.scaled(hyper))[0] + hyper.own**2 * same
        missed = values - (overlaps(parts, rows.parts, hyper.tilt) * alike) @ pull
        alone = np.bincount(self.mixture)[self.mixture] == 1
        unseen = np.zeros(len(self.shares))
        unseen[rows.mixture] = pull / np.diag(precision)  # of those alone: one pseudo-row each
        missed[alone] = (unseen[self.mixture] / np.sqrt(weights))[alone]
        return np.asarray(missed)


def _parts(axes: tuple[Axis, Axis], inputs: Inputs) -> Array:
    """What each row sees of its mixture's effect: itself, and slopes where axes have length."""
    positions = zip(axes, (inputs.steps, inputs.params), strict=True)
    slopes = [axis.at(values) for axis, values in positions if axis.half > 0]
    return np.column_stack([np.ones(len(inputs.steps)), *slopes])


def _spread(residuals: Array) -> float:
    """Standard deviation by the median absolute residual: 1.4826 makes it that of a normal."""
    return float(1.4826 * np.median(np.abs(residuals)))


def _weights(missed: Array) -> Array:
    """How much rows count, (row,), by how far they stray."""
    return np.asarray(1 / (1 + (missed / (STRAY * max(_spread(missed), SMALLEST_SCALE))) ** 2))


def _precision(rows: PseudoRows, coordinates: Array, hyper: Hyper) -> Array:
    distances = Distances.between(coordinates, coordinates).at(rows.mixture, rows.mixture)
    found = inverse(covariance(rows, distances, hyper))
    assert found is not None  # the noise on the diagonal is far above rounding
    return found[0]


def _searched(rows: PseudoRows, coordinates: Array, start: Hyper) -> Hyper:
    """The likeliest hyperparameters, on as many mixtures as are quick to search, spread evenly."""
    count = len(coordinates)
    if count <= MOST_SEARCHED:
        return likeliest(rows, coordinates, start)
    chosen = np.unique(np.linspace(0, count - 1, MOST_SEARCHED).astype(int))
    found = likeliest(rows.take(chosen), coordinates[chosen], start)
    return polished(rows, coordinates, found)


def _gain(rows: PseudoRows, precision: Array) -> tuple[float, float]:
    """How much nearer unseen mixtures' mean effects are to the process than to 0.

    The mean over mixtures of the fall of the absolute miss, and its standard error.
    """
    pull = precision @ rows.seen
    falls = []
    for block in np.split(np.arange(len(pull)), np.flatnonzero(np.diff(rows.mixture)) + 1):
        missed = np.linalg.solve(precision[np.ix_(block, block)], pull[block])
        # A mixture's first pseudo-row is its rows' weighted mean, times a known factor.
        fall = abs(rows.seen[block[0]]) - abs(missed[0])
        falls.append(fall / abs(rows.parts[block[0], 0]))
    return float(np.mean(falls)), float(np.std(falls, ddof=1) / np.sqrt(len(falls)))
