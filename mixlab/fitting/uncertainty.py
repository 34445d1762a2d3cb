"""Standard errors of an estimate, by the law's Jacobian.

    covariance = (J' W J)^-1  M  (J' W J)^-1,   M = sum over mixtures of  u_g u_g'

J holds d log L / d log parameter, W the robust loss's curvature, and
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

from mixlab.fitting.least_squares import Estimate, Problem
from mixlab.mixture import Array

ErrorKind = Literal["clustered", "independent", "none"]

FEWEST_CLUSTERS = 6  # below, the leverage of a mixture comes near 1
RANK_TOLERANCE = 1e-7


@dataclass(frozen=True)
class Uncertainty:
    """How well the free parameters are known, over their logarithms."""

    covariance: Array  # (parameter, parameter), 0 for parameters that are not free
    quantile: float  # half-width of the 95% interval in standard errors
    kind: ErrorKind


def unresolved(problem: Problem, found: Estimate) -> tuple[str, ...]:
    """Free parameters that trade off against each other without changing any prediction."""
    jacobian = problem.jacobian(found.values)[:, found.free]
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
    """Covariance of the free parameters' logarithms; `clusters` numbers each row's mixture."""
    size = len(found.values)
    residuals = problem.residuals(found.values)
    jacobian = problem.jacobian(found.values)[:, found.free]
    spare = len(residuals) - jacobian.shape[1]
    if spare < 1 or unresolved(problem, found):
        return Uncertainty(np.full((size, size), np.nan), np.nan, "none")
    # Soft L1: rho(z) = 2 (sqrt(1 + z) - 1) with z = (residual / scale)^2.
    root = np.sqrt(1 + (residuals / found.scale) ** 2)
    psi, curvature = residuals / root, root**-3
    clustered = _clustered(jacobian, psi, curvature, clusters)
    covariance = np.zeros((size, size))
    if clustered is None:
        covariance[np.ix_(found.free, found.free)] = _independent(jacobian, psi, curvature)
        return Uncertainty(covariance, float(stdtrit(spare, 0.975)), "independent")
    covariance[np.ix_(found.free, found.free)] = clustered
    groups = len(np.unique(clusters))
    return Uncertainty(covariance, float(stdtrit(groups - 1, 0.975)), "clustered")


def _independent(jacobian: Array, psi: Array, curvature: Array) -> Array:
    """Huber's covariance of an M-estimator with independent errors."""
    rows, parameters = jacobian.shape
    variance = np.sum(psi**2) / (rows - parameters) / np.mean(curvature) ** 2
    return np.asarray(variance * np.linalg.inv(jacobian.T @ jacobian))


def _clustered(jacobian: Array, psi: Array, curvature: Array, clusters: np.ndarray) -> Array | None:
    """The CR3 covariance, or None where a cluster alone decides a parameter."""
    groups = np.unique(clusters)
    if len(groups) < FEWEST_CLUSTERS:
        return None
    weighted = jacobian * np.sqrt(curvature)[:, None]
    bread = np.linalg.inv(weighted.T @ weighted)
    scores = []
    for group in groups:
        own = clusters == group
        leverage = weighted[own] @ bread @ weighted[own].T
        enlarged = np.eye(len(leverage)) - leverage
        if np.linalg.eigvalsh(enlarged)[0] < 1e-3:
            return None
        score = weighted[own].T @ np.linalg.solve(enlarged, psi[own] / np.sqrt(curvature[own]))
        scores.append(score @ bread)
    # As a square, so that rounding makes no variance negative.
    moved = np.array(scores)
    return np.asarray((len(groups) - 1) / len(groups) * moved.T @ moved)
