"""Fitting a law to observations, target by target.

A target named like a domain uses that domain's share. Rows whose own share is 0 are
outside a power law: they are left out and counted, or, with a share floor, read as if
the share were that floor. Losses that were not measured (NaN) are skipped and counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mixlab.errors import InvalidTable, TooFewMixtures
from mixlab.fitting.answer import Fit, StepUnit
from mixlab.fitting.description import Counts, described
from mixlab.fitting.evidence import checked, clusters_of
from mixlab.fitting.problem import problem
from mixlab.fitting.search import Robust
from mixlab.fitting.target import TargetFit
from mixlab.laws import Inputs, Law
from mixlab.runs import Observations


@dataclass(frozen=True)
class Options:
    """How to fit; `fit` says what they mean."""

    share_floor: float | None
    profiles: bool
    replicates: int
    robust: Robust | None
    heldout: bool
    held: Mapping[str, float]


def fit(
    law: Law,
    observations: Observations,
    *,
    share_floor: float | None = None,
    profiles: bool = True,
    replicates: int = 0,
    robust: Robust | None = None,
    heldout: bool = True,
    held: Mapping[str, float] | None = None,
) -> Fit:
    """The law fitted to every target that it can speak of.

    Without `profiles`, intervals of vague parameters are the quick ones of profile.py's parabola.
    `replicates` asks for that many bootstrap refits (bootstrap.py). Without `heldout`, no mixture
    is left out to calibrate prediction intervals. `held` gives parameters a value instead of
    fitting them, as where a source has them from other runs.

    Raises TooFewMixtures, InvalidLoss (infinite or not positive; NaN means not measured), and
    InvalidTable where no target is named like a domain, the share floor is no share, or the
    table lacks what the law needs.
    """
    if share_floor is not None and not 0 < share_floor < 1:
        raise InvalidTable(f"A share floor must lie between 0 and 1, not {share_floor}.")
    seen, notes = checked(law, observations)
    left_out = _left_out(law, seen)
    wanted = [target for target in seen.targets if target not in left_out]
    if not wanted:
        raise InvalidTable(
            f"The law {law.name} needs targets named like domains; the targets are "
            f"{', '.join(seen.targets)}, the domains {', '.join(seen.domains)}."
        )
    options = Options(share_floor, profiles, replicates, robust, heldout, held or {})
    clusters = clusters_of(law, seen)
    return Fit(
        law_name=law.name,
        domains=seen.domains,
        targets={name: _fit_target(law, seen, name, clusters, options) for name in wanted},
        left_out_targets=left_out,
        share_floor=share_floor,
        step_unit=_step_unit(seen),
        steps_seen=(float(seen.steps.min()), float(seen.steps.max())),
        tokens_per_step=seen.tokens_per_step,
        shares_seen=_shares_seen(law, seen),
        sizes_seen=_sizes_seen(seen),
        notes=notes,
    )


def _left_out(law: Law, observations: Observations) -> dict[str, str]:
    if not law.needs_own_share:
        return {}
    return {
        target: f"no domain has this name, and {law.name} needs the own domain's share"
        for target in observations.targets
        if target not in observations.domains
    }


def _step_unit(observations: Observations) -> StepUnit:
    same = np.array_equal(observations.steps, observations.tokens)
    return "tokens" if same else "steps"


def _shares_seen(law: Law, observations: Observations) -> dict[str, tuple[float, float]]:
    """Runs without a domain count where the law is defined for them."""
    seen = {}
    for name, column in zip(observations.domains, observations.proportions.T, strict=True):
        present = column[column > 0]
        if len(present):
            without = law.zero_shares and len(present) < len(column)
            seen[name] = (0.0 if without else float(present.min()), float(present.max()))
    return seen


def _sizes_seen(observations: Observations) -> tuple[float, float] | None:
    sizes = observations.params
    return (float(sizes.min()), float(sizes.max())) if np.all(np.isfinite(sizes)) else None


def _fit_target(
    law: Law, observations: Observations, target: str, clusters: np.ndarray, options: Options
) -> TargetFit:
    losses = observations.losses_nats[:, observations.targets.index(target)]
    own = observations.domains.index(target) if target in observations.domains else None
    floor = options.share_floor or 0.0
    shares = np.maximum(observations.proportions, floor)
    inputs = Inputs(
        shares, observations.steps, own, observations.params, observations.unique_tokens
    )
    measured, usable = ~np.isnan(losses), law.usable(inputs)
    rows = measured & usable
    excluded = int((measured & ~usable).sum())
    _check_mixtures(law, target, clusters[rows], excluded=excluded)
    asked = problem(law, observations.domains, own, inputs.take(rows), losses[rows])
    raised = np.zeros_like(rows) if own is None else observations.proportions[:, own] < floor
    counts = Counts(excluded, int((raised & rows).sum()), int((~measured).sum()))
    return described(
        asked, target, clusters[rows], counts, profiles=options.profiles,
        replicates=options.replicates, robust=options.robust, heldout=options.heldout,
        given=options.held,
    )  # fmt: skip


def _check_mixtures(law: Law, target: str, clusters: np.ndarray, *, excluded: int) -> None:
    found = len(np.unique(clusters))
    if found >= law.minimum_mixtures:
        return
    what = "mixture" if law.needs_mixture else "run"
    without = f" ({excluded} rows give it a share of 0, outside the law)" if excluded else ""
    raise TooFewMixtures(
        f"Target {target!r} was measured under {found} usable "
        f"{what if found == 1 else f'{what}s'}{without}; {law.name} "
        f"needs at least {law.minimum_mixtures}. Train proxy runs on more mixtures."
    )
