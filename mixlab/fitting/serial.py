"""Fits as JSON and back; fits that version 0.1.0 saved are read as well."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mixlab.errors import InvalidTable
from mixlab.fitting.answer import Fit, FitStatus, TargetFit
from mixlab.fitting.intervals import HeldOut
from mixlab.fitting.residual import residual_from_dict
from mixlab.laws import law
from mixlab.mixture import Array

PLAIN = (
    "reason", "error_kind", "noise_percent", "r2_log_loss", "train_mre_percent", "rows",
    "mixtures", "excluded_rows", "floored_rows", "missing_rows",
)  # fmt: skip
MAPPINGS = ("parameters", "source_form", "standard_errors")


def fit_to_dict(fit: Fit) -> dict[str, Any]:
    """A JSON-ready form."""
    laws = {found.law.name: found.law for found in fit.targets.values()}
    return {
        "law": fit.law_name,
        "formula": "; ".join(f"{name}: {one.formula}" for name, one in laws.items())
        if len(laws) > 1 else next(iter(laws.values())).formula,
        "domains": list(fit.domains),
        "step_unit": fit.step_unit,
        "steps_seen": list(fit.steps_seen),
        "sizes_seen": fit.sizes_seen and list(fit.sizes_seen),
        "tokens_per_step": fit.tokens_per_step,
        "shares_seen": {name: list(seen) for name, seen in fit.shares_seen.items()},
        "share_floor": fit.share_floor,
        "left_out_targets": dict(fit.left_out_targets),
        "notes": list(fit.notes),
        "targets": {name: _to_dict(found) for name, found in fit.targets.items()},
    }  # fmt: skip


def fit_from_dict(data: Mapping[str, Any]) -> Fit:
    """What `fit_to_dict` wrote. Raises UnknownLaw, or InvalidTable where it isn't a fit."""
    try:
        sizes = data.get("sizes_seen")
        return Fit(
            law_name=data["law"],
            domains=tuple(data["domains"]),
            targets={
                name: _from_dict(name, one, data["law"]) for name, one in data["targets"].items()
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
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InvalidTable(
            f"This is not a saved fit ({type(error).__name__}: {error}); "
            "write one with `mixlab fit TABLE --output fit.json`."
        ) from error


def _to_dict(found: TargetFit) -> dict[str, Any]:
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


def _from_dict(target: str, data: Mapping[str, Any], law_name: str) -> TargetFit:
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
