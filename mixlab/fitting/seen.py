"""Where a question leaves what the fit's runs have seen, in words."""

from collections.abc import Collection, Mapping

from mixlab.fitting.answer import Fit

ROUNDING = 1e-9  # of a share that was solved up to its bound


def outside_seen(
    fit: Fit,
    shares: Mapping[str, float],
    *,
    step: float,
    params: float | None = None,
    without: Collection[str] = (),
) -> list[str]:
    """Steps, model size and shares by domain, but those `without`, outside those observed."""
    notes = []
    first, last = fit.steps_seen
    if not first <= step <= last:
        notes.append(f"{step:g} {fit.step_unit} is outside those observed, {first:g} to {last:g}")
    sizes = fit.sizes_seen
    if params and sizes and not sizes[0] <= params <= sizes[1]:
        notes.append(
            f"{params:g} parameters are outside those observed, {sizes[0]:g} to {sizes[1]:g}"
        )
    for name, seen in fit.shares_seen.items():
        share = shares.get(name, 0.0)
        low, high = seen[0] * (1 - ROUNDING), seen[1] * (1 + ROUNDING)
        if name not in without and not low <= share <= high:
            notes.append(
                f"{name} gets {share:.4g}, outside the shares observed, {seen[0]:.4g} to "
                f"{seen[1]:.4g}"
            )
    return notes
