"""Standard errors of an estimate, by the law's Jacobian.

    covariance = (J' W J + P)^-1  M  (J' W J + P)^-1,   M = sum over mixtures of  u_g u_g'

J holds d log L / d z, W the robust loss's curvature, P the penalty's on shrunk parameters, and
u_g = J_g' (I - H_g)^-1 psi_g the score of one mixture's rows, enlarged by its leverage H_g
(CR3, a linearised jackknife over mixtures: Bell & McCaffrey 2002; MacKinnon, Nielsen & Webb
2023). Intervals use Student's t with (mixtures - 1) degrees of freedom.

Checkpoints of one run share its seed's luck and the law's misfit at its mixture, so rows are no
independent evidence; errors that count them so are too small by a factor of up to
sqrt(checkpoints). Where there are too few mixtures to cluster, rows are taken as
independent (Huber's M-estimator formula) and the fit says so.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import stdtrit

from mixlab.fitting.least_squares import Estimate, stacked
from mixlab.fitting.problem import Problem
from mixlab.mixture import Array

ErrorKind = Literal["clustered", "independent", "none"]

FEWEST_CLUSTERS = 6  # below, the leverage of a mixture comes near 1
RANK_TOLERANCE = 1e-7


@dataclass(frozen=True)
class Uncertainty:
    """How well the free parameters are known, over z: logarithms unless signed."""

    covariance: Array  # (parameter, parameter), 0 for parameters that are not free
    quantile: float  # half-width of the 95% interval in standard errors
    kind: ErrorKind


def unresolved(problem: Problem, found: Estimate) -> tuple[str, ...]:
    """Free parameters that trade off against each other without changing any prediction."""
    jacobian = stacked(problem, found)
    norms = np.linalg.norm(jacobian, axis=0)
    names = [p.name for p, free in zip(problem.parameters, found.free, strict=True) if free]
    if not np.all(norms > 0):
        return tuple(name for name, norm in zip(names, norms, strict=True) if norm == 0)
    _, singular, directions = np.linalg.svd(jacobian / norms, full_matrices=False)
    lost = directions[singular < RANK_TOLERANCE * singular[0]]
    return tuple(
        name for name, part in zip(names, np.abs(lost).max(axis=0, initial=0), strict=True)
        if part > 0.1
    )  # fmt: skip


def uncertainty(problem: Problem, found: Estimate, clusters: np.ndarray) -> Uncertainty:
    """Covariance of the free parameters' z; `clusters` numbers each row's mixture."""
    size = len(found.values)
    residuals = problem.residuals(found.values)
    jacobian = problem.jacobian(found.values)[:, found.free]
    spare = len(residuals) - int((found.free & ~problem.shrunk).sum())
    if spare < 1 or unresolved(problem, found):
        return Uncertainty(np.full((size, size), np.nan), np.nan, "none")
    slopes, curvature = found.robust.slopes((residuals / found.scale) ** 2)
    # Huber's strays have no curvature, and a row must count as something.
    psi, curvature = slopes * residuals, np.maximum(curvature, 1e-6)
    penalty = found.curvature(problem)
    clustered = _clustered(jacobian, psi, curvature, clusters, penalty)
    covariance = np.zeros((size, size))
    if clustered is None:
        independent = _independent(jacobian, psi, curvature, penalty)
        covariance[np.ix_(found.free, found.free)] = independent
        return Uncertainty(covariance, float(stdtrit(spare, 0.975)), "independent")
    covariance[np.ix_(found.free, found.free)] = clustered
    groups = len(np.unique(clusters))
    return Uncertainty(covariance, float(stdtrit(groups - 1, 0.975)), "clustered")


def _independent(jacobian: Array, psi: Array, curvature: Array, penalty: Array) -> Array:
    """Huber's covariance of an M-estimator with independent errors."""
    rows = len(jacobian)
    cross = jacobian.T @ jacobian
    bread = np.linalg.inv(cross + np.diag(penalty) / np.mean(curvature))
    spent = float(np.trace(bread @ cross))  # parameters, as far as the penalty leaves them free
    variance = np.sum(psi**2) / max(1.0, rows - spent) / np.mean(curvature) ** 2
    return np.asarray(variance * (bread @ cross @ bread))


def _clustered(
    jacobian: Array, psi: Array, curvature: Array, clusters: np.ndarray, penalty: Array
) -> Array | None:
    """The CR3 covariance, or None where a cluster alone decides a parameter."""
    number, counts = np.unique(clusters, return_inverse=True, return_counts=True)[1:]
    if len(counts) < FEWEST_CLUSTERS:
        return None
    weighted = jacobian * np.sqrt(curvature)[:, None]
    bread = np.linalg.inv(weighted.T @ weighted + np.diag(penalty))
    order, firsts = np.argsort(number.reshape(-1), kind="stable"), np.cumsum(counts) - counts
    scores = []
    for size in np.unique(counts):  # clusters of one size as one batch
        rows = order[firsts[counts == size][:, None] + np.arange(size)]
        own = weighted[rows]
        enlarged = np.eye(size) - own @ bread @ np.swapaxes(own, 1, 2)
        if np.linalg.eigvalsh(enlarged).min() < 1e-3:
            return None
        pulled = np.linalg.solve(enlarged, (psi[rows] / np.sqrt(curvature[rows]))[:, :, None])
        scores.append(np.matmul(np.swapaxes(own, 1, 2), pulled)[:, :, 0] @ bread)
    # As a square, so that rounding makes no variance negative.
    moved = np.concatenate(scores)
    return np.asarray((len(counts) - 1) / len(counts) * moved.T @ moved)
