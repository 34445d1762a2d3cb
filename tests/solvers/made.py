"""Fits with known parameters, made without fitting, for tests and benchmarks of solvers."""

from typing import Any

import numpy as np

from mixlab.fitting import Fit, FitStatus, TargetFit
from mixlab.laws import LAWS, Law

TRANSFER = LAWS["bimix_transfer"]


def target(
    name: str, law: Law, domains: tuple[str, ...], values: np.ndarray, **more: Any
) -> TargetFit:
    """One target's fit that claims to have converged."""
    own = domains.index(name) if name in domains else None
    names = [one.name for one in law.parameters(domains, own)]
    return TargetFit(
        target=name, law=law, parameters=dict(zip(names, map(float, values), strict=True)),
        source_form={}, standard_errors={}, interval95={}, status=FitStatus.CONVERGED,
        at_bound=(), unidentified=(), reason=None, error_kind="mixtures", log_covariance=None,
        noise_percent=0.1, r2_log_loss=1.0, train_mre_percent=0.1, rows=100, mixtures=20,
        excluded_rows=0, floored_rows=0, missing_rows=0, **more,
    )  # fmt: skip


def made(targets: dict[str, TargetFit], domains: tuple[str, ...], **more: Any) -> Fit:
    """A fit of these targets."""
    given: dict[str, Any] = {
        "law_name": "made", "domains": domains, "targets": targets, "left_out_targets": {},
        "share_floor": None, "step_unit": "steps", "steps_seen": (30.0, 1000.0),
        "tokens_per_step": None, "shares_seen": dict.fromkeys(domains, (0.0, 1.0)),
    }  # fmt: skip
    return Fit(**{**given, **more})


def transfer_fit(
    domains: int, targets: int | None = None, *, replicates: int = 0, seed: int = 0,
    spread: float = 0.03, **more: Any,
) -> Fit:  # fmt: skip
    """BiMix with transfer: convex losses in which every domain helps every target."""
    rng = np.random.default_rng(seed)
    names = tuple(f"d{index}" for index in range(domains))
    found = {}
    for index in range(targets or domains):
        name = names[index] if index < domains else f"t{index}"
        own = index if index < domains else None
        count = len(TRANSFER.parameters(names, own))
        shape = [rng.uniform(5, 12), rng.uniform(0.05, 0.3), rng.uniform(0.2, 0.5),
                 rng.uniform(0.8, 3)]  # fmt: skip
        leak = [] if own is None else [rng.uniform(0.005, 0.1)]
        rest = rng.normal(0, 0.7, count - 4 - len(leak))
        values = np.concatenate([shape, leak, rest])
        members = values * np.exp(spread * rng.normal(size=(replicates, count)))
        found[name] = target(
            name, TRANSFER, names, values, replicates=members if replicates else None
        )
    return made(found, names, **more)


def grid(size: int = 60) -> np.ndarray:
    """All mixtures of three domains in steps of 1/size, (mixture, 3)."""
    steps = np.arange(size + 1)
    first, second = np.meshgrid(steps, steps, indexing="ij")
    kept = first + second <= size
    pairs = np.stack([first[kept], second[kept]], axis=1) / size
    return np.hstack([pairs, 1 - pairs.sum(axis=1, keepdims=True)])
