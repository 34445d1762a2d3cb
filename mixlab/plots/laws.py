"""Pictures of a fit: its losses against shares and steps, and how domains help each other.

Every curve is drawn from `Fit.losses` and every band from `Fit.interval_widths`, whatever the law.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from scipy.stats import norm

from mixlab.fitting import Fit
from mixlab.mixture import Array, Mixture
from mixlab.plots.style import (
    GREY,
    INK,
    LAW_COLOUR,
    dress,
    figure,
    grid_of_axes,
)
from mixlab.runs import Observations

POINTS = 80
SMALLEST_SHARE = 1e-3  # the left end of a logarithmic axis of shares


def loss_against_share(
    fit: Fit,
    observations: Observations,
    *,
    step: float,
    reference: Mixture,
    params: float | None = None,
) -> Figure:
    """Per domain its loss against its own share, the others as in the reference, with the band.

    Runs had other mixtures: each is drawn at its share with the loss that it would have had on
    the reference's other shares, which is the curve times measured / predicted.
    """
    names = [name for name in fit.targets if name in fit.domains]
    drawing, axes = grid_of_axes(names)
    rows = observations.take(_at_step(fit, observations, step, params))
    for axis, name in zip(axes, names, strict=True):
        _draw_share(axis, fit, rows, name, step, reference.shares(fit.domains), params)
    drawing.legend(
        handles=[
            Line2D([], [], color=INK, marker="o", ls="", ms=3.5,
                   label="runs, their other shares as in the reference"),
            Line2D([], [], color=LAW_COLOUR, label="law"),
            Patch(color=LAW_COLOUR, alpha=0.18, lw=0, label="95% interval of a new run"),
            Line2D([], [], color=GREY, ls="--", label="reference"),
        ],
        fontsize=9, frameon=False, ncols=4, loc="outside upper left",
    )  # fmt: skip
    drawing.supxlabel("share of training tokens (logarithmic)", fontsize=9, color=INK)
    drawing.supylabel("validation loss (nats per token)", fontsize=9, color=INK)
    return drawing


def transfer(fit: Fit, mixture: Mixture, *, step: float, params: float | None = None) -> Figure:
    """How much each domain helps or costs each target: `transfer_percent` as a heatmap."""
    return heatmap(
        transfer_percent(fit, mixture, step=step, params=params),
        targets=list(fit.targets),
        domains=fit.domains,
        label="change of the loss (%) for one more point of share",
    )


def transfer_percent(
    fit: Fit, mixture: Mixture, *, step: float, params: float | None = None
) -> Array:
    """Change of each target's loss in percent when a domain's share grows by one point.

    The point is taken from the other domains in proportion to their shares at the mixture, so
    that d ln L / d r_j = (dL/dr_j - sum_k r_k dL/dr_k) / (1 - r_j) / L; shape (target, domain).
    """
    surface = fit.surface(step, params=params)
    shares = mixture.shares(fit.domains)
    slopes = surface.gradients(shares)
    along = (slopes - (slopes @ shares)[:, None]) / np.maximum(1 - shares, 1e-9)
    return np.asarray(along / surface.losses(shares[None, :])[0][:, None])


def heatmap(values: Array, *, targets: Sequence[str], domains: Sequence[str], label: str) -> Figure:
    """A (target, domain) table in colours about 0, each cell with its number."""
    drawing = figure(2.2 + 0.62 * len(domains), 1.5 + 0.34 * len(targets))
    axis = drawing.subplots()
    # One strong cell, mostly a domain's effect on itself, must not pale all others.
    span = float(np.quantile(np.abs(values), 0.95)) or 1.0
    image = axis.imshow(values, cmap="PuOr", vmin=-span, vmax=span, aspect="auto")
    axis.set_xticks(range(len(domains)), domains, fontsize=8.5, rotation=35, ha="right",
                    rotation_mode="anchor")  # fmt: skip
    axis.set_yticks(range(len(targets)), targets, fontsize=8.5)
    axis.tick_params(length=0, colors=INK)
    for (row, column), value in np.ndenumerate(values):
        dark = abs(value) > 0.6 * span
        text = f"{value:+.2f}" if abs(value) < 9.95 else f"{value:+.0f}"
        axis.text(column, row, text, ha="center", va="center", fontsize=7.5,
                  color="white" if dark else INK)  # fmt: skip
    axis.set_frame_on(False)
    axis.set_xlabel("domain", fontsize=9, color=INK)
    axis.set_ylabel("target", fontsize=9, color=INK)
    bar = drawing.colorbar(image, ax=axis, extend="both", shrink=0.9, pad=0.02)
    bar.set_label(label, fontsize=8.5, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.outline.set_visible(False)
    return drawing


def loss_against_tokens(
    fit: Fit,
    observations: Observations,
    *,
    mixture: Mixture,
    until: float,
    params: float | None = None,
) -> Figure:
    """Each target's loss against the step, with a fan of 50 and 95% intervals beyond the runs.

    Grey points are runs of any mixture; the dashed line is where observations end. Steps are in
    the fit's unit.
    """
    names = list(fit.targets)
    drawing, axes = grid_of_axes(names)
    rows = _step_values(fit, observations)
    steps = np.geomspace(rows.min(), until, POINTS)
    shares = np.repeat(mixture.shares(fit.domains)[None, :], POINTS, axis=0)
    losses = fit.losses(shares, steps, params=params)
    widths = fit.interval_widths(shares, steps, params)
    for number, (axis, name) in enumerate(zip(axes, names, strict=True)):
        measured = observations.losses_nats[:, observations.targets.index(name)]
        axis.plot(rows, measured, ".", color=GREY, ms=3, zorder=1)
        _draw_fan(axis, steps, losses[:, number], widths[:, number])
        axis.axvline(rows.max(), color=INK, lw=0.8, ls="--", zorder=2)
        # More labels than these would touch.
        subs = (1, 2, 5) if until / rows.min() < 500 else (1,)
        axis.xaxis.set_major_locator(LogLocator(subs=subs))
        axis.xaxis.set_major_formatter(FuncFormatter(_short))
        axis.xaxis.set_minor_locator(NullLocator())
        dress(axis, name, "")
    drawing.legend(
        handles=[
            Line2D([], [], color=GREY, marker=".", ls="", label="runs, any mixture"),
            Line2D([], [], color=LAW_COLOUR, label="law, this mixture"),
            Patch(color=LAW_COLOUR, alpha=0.32, lw=0, label="50% interval"),
            Patch(color=LAW_COLOUR, alpha=0.16, lw=0, label="95%"),
            Line2D([], [], color=INK, lw=0.8, ls="--", label="last step seen"),
        ],
        fontsize=9, frameon=False, ncols=5, loc="outside upper left",
    )  # fmt: skip
    unit = "training tokens" if fit.step_unit == "tokens" else "step"
    drawing.supxlabel(f"{unit} (logarithmic)", fontsize=9, color=INK)
    drawing.supylabel("validation loss (nats per token)", fontsize=9, color=INK)
    return drawing


def _draw_fan(axis: Axes, steps: Array, losses: Array, widths: Array) -> None:
    """A curve with its 50 and 95% intervals, over logarithmic steps."""
    for level in (0.95, 0.5):
        half = widths * norm.ppf(0.5 + level / 2) / norm.ppf(0.975)
        axis.fill_between(
            steps, losses * np.exp(-half), losses * np.exp(half),
            color=LAW_COLOUR, alpha=0.16, lw=0, zorder=2,
        )  # fmt: skip
    axis.plot(steps, losses, color=LAW_COLOUR, lw=1.4, zorder=3)
    axis.set_xscale("log")


def _draw_share(
    axis: Axes, fit: Fit, rows: Observations, name: str, step: float, reference: Array,
    params: float | None,
) -> None:  # fmt: skip
    column, target = fit.domains.index(name), list(fit.targets).index(name)
    seen = rows.proportions[:, column]
    held = seen > 0
    left = max(SMALLEST_SHARE, 0.8 * seen[held].min()) if held.any() else SMALLEST_SHARE
    grid = np.geomspace(left, min(1.0, 1.15 * seen.max(initial=left)), POINTS)
    along = _along(reference, column, grid)
    curve = fit.losses(along, step, params=params)[:, target]
    width = fit.interval_widths(along, step, params)[:, target]
    axis.fill_between(grid, curve * np.exp(-width), curve * np.exp(width), color=LAW_COLOUR,
                      alpha=0.18, lw=0)  # fmt: skip
    axis.plot(grid, curve, color=LAW_COLOUR, lw=1.4)
    moved = fit.losses(_along(reference, column, seen), step, params=params)[:, target]
    there = fit.losses(rows.proportions, step, params=params)[:, target]
    measured = rows.losses_nats[:, rows.targets.index(name)]
    # A share of 0 has no place on a logarithmic axis: it stands apart, at its left end.
    zero = left / 2.2
    axis.plot(np.where(held, seen, zero), moved * measured / there, "o", color=INK, ms=3.2,
              alpha=0.7, mew=0)  # fmt: skip
    if not held.all():
        _draw_at_zero(axis, fit, _along(reference, column, np.zeros(1)), step, target, zero, params)
    axis.axvline(reference[column], color=GREY, lw=1.2, ls="--", zorder=0)
    axis.set_xscale("log")
    ticks = [one for one in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0) if left <= one <= grid[-1]]
    axis.set_xticks(
        [*([] if held.all() else [zero]), *ticks],
        [*([] if held.all() else ["0"]), *(f"{100 * one:g}%" for one in ticks)],
    )
    axis.xaxis.set_minor_locator(NullLocator())
    found = fit.targets[name].heldout
    known = "" if found is None else f"  (held-out error {found.mre_percent:.2f}%)"
    dress(axis, name + known, "")


def _draw_at_zero(
    axis: Axes, fit: Fit, mixture: Array, step: float, target: int, place: float,
    params: float | None,
) -> None:  # fmt: skip
    """The law without the domain, where it is defined there."""
    loss = float(fit.losses(mixture, step, params=params)[0, target])
    if np.isfinite(loss):
        width = float(fit.interval_widths(mixture, step, params)[0, target])
        ends = np.array([0.82, 1.22]) * place
        axis.fill_between(ends, loss * np.exp(-width), loss * np.exp(width), color=LAW_COLOUR,
                          alpha=0.18, lw=0)  # fmt: skip
        axis.plot(ends, [loss, loss], color=LAW_COLOUR, lw=1.4)


def _along(reference: Array, column: int, own: Array) -> Array:
    """The reference with one share exchanged and the others scaled to fit, (row, domain)."""
    others = np.delete(reference, column)
    rest = others / others.sum() if others.sum() > 0 else np.full(len(others), 1 / len(others))
    return np.insert((1 - own)[:, None] * rest, column, own, axis=1)


def _at_step(fit: Fit, observations: Observations, step: float, params: float | None) -> np.ndarray:
    """Rows at the observed step that is nearest, and of the model size where one is given."""
    steps = _step_values(fit, observations)
    right = np.ones(len(steps), dtype=bool) if params is None else observations.params == params
    if not right.any():
        right[:] = True
    nearest = steps[right][np.argmin(np.abs(np.log(steps[right] / step)))]
    return np.asarray(right & np.isclose(steps, nearest, rtol=0.02))


def _step_values(fit: Fit, observations: Observations) -> Array:
    return observations.tokens if fit.step_unit == "tokens" else observations.steps


def _short(value: float, _: int | None = None) -> str:
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:,.0f}"
