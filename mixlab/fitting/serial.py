"""One target's fit as JSON and back; what version 0.1.0 saved is read as well."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np

from mixlab.fitting.intervals import HeldOut
from mixlab.fitting.residual import residual_from_dict
from mixlab.fitting.target import FitStatus, TargetFit
from mixlab.laws import law
from mixlab.mixture import Array

PLAIN = (
    "reason", "error_kind", "noise_percent", "r2_log_loss", "train_mre_percent", "rows",
    "mixtures", "excluded_rows", "floored_rows", "missing_rows",
)  # fmt: skip
MAPPINGS = ("parameters", "source_form", "standard_errors")


def target_to_dict(found: TargetFit) -> dict[str, Any]:
    """A JSON-ready form."""
    return {
        "law": found.law.name,
        **{name: dict(getattr(found, name)) for name in MAPPINGS},
        "interval95": {
            name: None if interval is None else list(interval)
            for name, interval in found.interval95.items()
        },
        "status": found.status.value,
        "at_bound": list(found.at_bound),
        "unidentified": list(found.unidentified),
        "log_covariance": found.log_covariance and [list(row) for row in found.log_covariance],
        **{name: getattr(found, name) for name in PLAIN},
        "strength": found.strength,
        "heldout": None if found.heldout is None else found.heldout.to_dict(),
        "residual": None if found.residual is None else found.residual.to_dict(),
        "replicates": None if found.replicates is None else _rounded(found.replicates),
    }


def _rounded(values: Array) -> list[list[float]]:
    """To 7 digits, far below what replicates differ by: saved fits are half as long."""
    return [[float(f"{value:.7g}") for value in row] for row in values.tolist()]


def target_from_dict(target: str, data: Mapping[str, Any], law_name: str) -> TargetFit:
    """What `target_to_dict` wrote; `law_name` is the law where the target names none."""
    covariance, heldout = data["log_covariance"], data.get("heldout")
    kept: dict[str, Any] = {name: dict(data[name]) for name in MAPPINGS}
    kept |= {name: data[name] for name in PLAIN}
    residual, replicates = data.get("residual"), data.get("replicates")
    return TargetFit(
        target=target,
        law=law(data.get("law", law_name)),
        **kept,
        interval95={
            name: None if interval is None else (interval[0], interval[1])
            for name, interval in data["interval95"].items()
        },
        status=FitStatus(data["status"]),
        at_bound=tuple(data["at_bound"]),
        unidentified=tuple(data["unidentified"]),
        log_covariance=covariance and tuple(tuple(row) for row in covariance),
        strength=data.get("strength"),
        heldout=None if heldout is None else HeldOut.from_dict(heldout),
        residual=None if residual is None else residual_from_dict(residual),
        replicates=None if replicates is None else np.array(replicates, dtype=float),
    )


def check_target(found: TargetFit, names: Sequence[str]) -> None:
    """Raises ValueError where a target that was read isn't one of a law with these parameters."""
    if list(found.parameters) != list(names):
        raise ValueError(
            f"{found.target!r} has the parameters {list(found.parameters)}, not {list(names)}"
        )
    if not all(isfinite(value) for value in found.parameters.values()):
        raise ValueError(f"{found.target!r} has parameters that are no finite numbers")
    if not found.noise_percent >= 0:
        raise ValueError(f"{found.target!r} has a noise_percent of {found.noise_percent}")
    covariance, replicates = found.log_covariance, found.replicates
    if covariance is not None and np.shape(covariance) != (len(names), len(names)):
        raise ValueError(f"{found.target!r} has a log_covariance of shape {np.shape(covariance)}")
    if replicates is not None and replicates.shape[1:] != (len(names),):
        raise ValueError(f"{found.target!r} has replicates of shape {replicates.shape}")
