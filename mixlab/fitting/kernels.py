"""The algebra of a Gaussian process over mixtures, exact and small.

A mixture c has an effect on the log loss with a slope in log step u and log size v; its rows are

    e = (1, u, v) . (f(x_c) + g_c) + noise,   f ~ GP(0, amplitude^2 * diag(1, t^2, t^2) * k)
                                              g ~ N(0, own^2 * diag(1, t^2, t^2)), one a mixture
    k(d) = (1 + d' + d'^2/3) e^-d', d' = sqrt(5) d    Matern 5/2 (Rasmussen & Williams 2006, 4.17)
    d^2  = shares' squared distance / share_length^2 + levels' / level_length^2

f is what like mixtures share, g what one mixture has alone (its run's luck), so that checkpoints
of a run are no independent evidence. A mixture's rows tell no more about its effect than as many
pseudo-rows as it has parts, so rows are first reduced to those by an orthogonal triangulation,
without loss (weighted least squares); what is left over tells the noise alone.
"""

from dataclasses import dataclass, fields, replace

import numpy as np
from scipy.linalg import lapack
from scipy.optimize import minimize

from mixlab.mixture import Array

FAILED = 1e12  # the objective where a covariance isn't positive definite
FARTHEST = 6.0  # logs of hyperparameters stay this close to their centre
NOISE_PARTS = np.exp(np.linspace(-5.0, 4.0, 37))[:, None]  # by which the noise may turn out other
NOTHING = -7.0  # the log of what the rows can't tell
EVALUATIONS = 20


@dataclass(frozen=True)
class Hyper:
    """Standard deviations in units of the residuals' scale, and lengths; all positive."""

    amplitude: float = 0.7
    own: float = 0.3
    noise: float = 0.5
    share_length: float = 1.5
    level_length: float = 1.5
    tilt: float = 0.3  # of the slopes in log step and log size, beside the effect itself

    @property
    def logs(self) -> Array:
        """As they are searched, (6,)."""
        return np.log([getattr(self, field.name) for field in fields(self)])

    @classmethod
    def of(cls, logs: Array) -> "Hyper":
        """From what `logs` gives."""
        return cls(*np.exp(logs).tolist())


# Weak priors around the defaults (standard deviations of logs): they hold what a table can't tell.
SPREADS = np.array([1.0, 1.0, 1.0, 0.7, 0.7, 1.0])


@dataclass(frozen=True)
class PseudoRows:
    """Rows reduced to a few a mixture."""

    mixture: np.ndarray  # (pseudo-row,), an index into the mixtures' coordinates
    parts: Array  # (pseudo-row, part): how much of the effect and of its slopes it sees
    seen: Array  # (pseudo-row,)
    leftover: float  # sum of squares that only noise explains
    leftover_rows: int

    def take(self, mixtures: np.ndarray) -> "PseudoRows":
        """Those of the given mixtures, which are numbered anew in that order."""
        number = np.full(int(self.mixture.max()) + 1, -1)
        number[mixtures] = np.arange(len(mixtures))
        kept = number[self.mixture] >= 0
        return replace(
            self,
            mixture=number[self.mixture[kept]],
            parts=self.parts[kept],
            seen=self.seen[kept],
        )


def reduced(mixture: np.ndarray, parts: Array, values: Array, weights: Array) -> PseudoRows:
    """Pseudo-rows of rows that see `parts` (row, part) of their mixture's effect."""
    block = np.column_stack([parts, values]) * np.sqrt(weights)[:, None]
    order = np.argsort(mixture, kind="stable")
    numbers, starts, counts = np.unique(mixture[order], return_index=True, return_counts=True)
    kept, names, leftover, spare = [], [], 0.0, 0
    # Mixtures with as many rows as each other are triangulated in one batch.
    for count in np.unique(counts):
        mine = counts == count
        stack = block[order[starts[mine][:, None] + np.arange(count)]]
        if count > 1:
            stack = np.linalg.qr(stack, mode="r")
        size = min(parts.shape[1], int(count))
        leftover += float(np.sum(stack[:, size:, -1] ** 2))
        spare += int(mine.sum()) * (int(count) - size)
        kept.append(stack[:, :size].reshape(-1, block.shape[1]))
        names.append(np.repeat(numbers[mine], size))
    rows = np.concatenate(kept)
    return PseudoRows(np.concatenate(names), rows[:, :-1], rows[:, -1], leftover, spare)


@dataclass(frozen=True)
class Distances:
    """Squared distances between mixtures before lengths, each (a, b)."""

    shares: Array
    levels: Array

    @classmethod
    def between(cls, a: Array, b: Array) -> "Distances":
        """Of coordinates (a, domain + 1) and (b, domain + 1), the level last."""
        x, y = a[:, :-1], b[:, :-1]
        squares = np.sum(x * x, axis=1)[:, None] + np.sum(y * y, axis=1) - 2 * x @ y.T
        return cls(np.maximum(squares, 0.0), (a[:, -1:] - b[:, -1]) ** 2)

    def at(self, rows: np.ndarray, columns: np.ndarray) -> "Distances":
        """For the given mixtures on either side, which may repeat."""
        grid = np.ix_(rows, columns)
        return Distances(self.shares[grid], self.levels[grid])

    def scaled(self, hyper: Hyper) -> Array:
        """The kernel's d, (a, b)."""
        shares = self.shares / hyper.share_length**2
        return np.asarray(np.sqrt(shares + self.levels / hyper.level_length**2))


def matern(distance: Array) -> tuple[Array, Array]:
    """Matern 5/2, and its derivative by the squared distance."""
    stretched = np.sqrt(5.0) * distance
    decay = np.exp(-stretched)
    return (1 + stretched + stretched**2 / 3) * decay, -5 / 6 * (1 + stretched) * decay


def overlaps(a: Array, b: Array, tilt: float) -> Array:
    """How much of the same parts two sets of rows see, (a, b)."""
    return np.asarray((a * _tilts(a.shape[1], tilt)) @ b.T)


def self_overlaps(a: Array, tilt: float) -> Array:
    """How much each row sees, (row,)."""
    return np.asarray((a * a) @ _tilts(a.shape[1], tilt))


def _tilts(parts: int, tilt: float) -> Array:
    return np.array([1.0] + [tilt**2] * (parts - 1))


def covariance(rows: PseudoRows, distances: Distances, hyper: Hyper) -> Array:
    """Between pseudo-rows, noise included; `distances` are theirs."""
    same = rows.mixture[:, None] == rows.mixture
    alike = hyper.amplitude**2 * matern(distances.scaled(hyper))[0] + hyper.own**2 * same
    matrix = overlaps(rows.parts, rows.parts, hyper.tilt) * alike
    matrix[np.diag_indices(len(matrix))] += hyper.noise**2
    return np.asarray(matrix)


def inverse(matrix: Array) -> tuple[Array, float] | None:
    """Inverse and log determinant of a positive definite matrix; None where it isn't one."""
    factor, failed = lapack.dpotrf(matrix, lower=1)
    if failed:
        return None
    lower = np.tril(lapack.dpotri(factor, lower=1)[0])
    full = lower + lower.T
    full[np.diag_indices(len(full))] /= 2
    return full, 2 * float(np.sum(np.log(np.diag(factor))))


def likeliest(rows: PseudoRows, coordinates: Array, start: Hyper) -> Hyper:
    """Hyperparameters of the highest marginal likelihood, with the weak priors above.

    Method: L-BFGS-B with the exact gradient, from `start`.
    """
    centre = Hyper().logs
    distances = Distances.between(coordinates, coordinates).at(rows.mixture, rows.mixture)
    free = _told(rows)
    first = np.where(free, start.logs, NOTHING)

    def objective(moved: Array) -> tuple[float, Array]:
        logs = first.copy()
        logs[free] = moved
        cost, slope = _cost(rows, distances, Hyper.of(logs))
        away = np.where(free, (logs - centre) / SPREADS, 0.0)
        return cost + 0.5 * float(away @ away), (slope + away / SPREADS)[free]

    found = minimize(
        objective,
        first[free],
        jac=True,
        method="L-BFGS-B",
        bounds=[(one - FARTHEST, one + FARTHEST) for one in centre[free]],
        options={"maxfun": EVALUATIONS, "ftol": 1e-5},
    )
    logs = first.copy()
    logs[free] = found.x
    return Hyper.of(logs)


def polished(rows: PseudoRows, coordinates: Array, found: Hyper) -> Hyper:
    """The same lengths with the likeliest amplitudes and noise: one eigendecomposition tells."""
    distances = Distances.between(coordinates, coordinates).at(rows.mixture, rows.mixture)
    bare = covariance(rows, distances, replace(found, noise=0.0))
    spectrum, vectors = np.linalg.eigh(bare)
    squares = (vectors.T @ rows.seen) ** 2
    noise = NOISE_PARTS * found.noise**2  # (candidate, 1), beside an amplitude as found
    total = np.maximum(spectrum, 0.0) + noise
    count = len(squares) + rows.leftover_rows
    scale = (np.sum(squares / total, axis=1) + rows.leftover / noise[:, 0]) / count
    cost = count * np.log(scale) + np.sum(np.log(total), axis=1)
    cost += rows.leftover_rows * np.log(noise[:, 0])
    best = int(np.argmin(cost))
    factor = float(np.sqrt(scale[best]))
    return replace(
        found,
        amplitude=factor * found.amplitude,
        own=factor * found.own,
        noise=factor * float(np.sqrt(noise[best, 0])),
    )


def _told(rows: PseudoRows) -> np.ndarray:
    """Which hyperparameters the rows can tell, (6,): with one row a mixture, no own effect."""
    repeated = rows.leftover_rows > 0 or len(np.unique(rows.mixture)) < len(rows.mixture)
    return np.array([True, repeated, True, True, True, rows.parts.shape[1] > 1])


def _cost(rows: PseudoRows, distances: Distances, hyper: Hyper) -> tuple[float, Array]:
    """Minus the log marginal likelihood, and its gradient by the logs of the hyperparameters."""
    solved = inverse(covariance(rows, distances, hyper))
    if solved is None:
        return FAILED, np.zeros(6)
    precision, log_determinant = solved
    pull = precision @ rows.seen
    noise = hyper.noise**2
    cost = 0.5 * (float(rows.seen @ pull) + log_determinant)
    cost += 0.5 * (rows.leftover_rows * np.log(noise) + rows.leftover / noise)
    slope = _slopes(rows, distances, hyper, precision - np.outer(pull, pull))
    slope[2] += rows.leftover_rows - rows.leftover / noise
    return float(cost), slope


def _slopes(rows: PseudoRows, distances: Distances, hyper: Hyper, excess: Array) -> Array:
    """Derivatives of the cost: half the inner product of `excess` with the covariance's."""
    kernel, steepness = matern(distances.scaled(hyper))
    overlap = overlaps(rows.parts, rows.parts, hyper.tilt)
    same = rows.mixture[:, None] == rows.mixture
    spread = hyper.amplitude**2
    near = excess * overlap
    by_distance = -spread * near * steepness
    slopes = overlap - np.outer(rows.parts[:, 0], rows.parts[:, 0])
    alike = spread * kernel + hyper.own**2 * same
    return np.array([
        spread * np.sum(near * kernel),
        hyper.own**2 * np.sum(near[same]),
        hyper.noise**2 * np.trace(excess),
        np.sum(by_distance * distances.shares) / hyper.share_length**2,
        np.sum(by_distance * distances.levels) / hyper.level_length**2,
        np.sum(excess * slopes * alike),
    ])  # fmt: skip
