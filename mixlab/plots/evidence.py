"""Pictures of evidence: how well held-out runs were predicted, and what that was worth.

Each function takes plain arrays and gives a matplotlib figure.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import norm

from mixlab.mixture import Array
from mixlab.plots.style import (
    GREY,
    INK,
    LAW_COLOUR,
    MARKERS,
    SERIES,
    dress,
    figure,
    grid_of_axes,
)


def predicted_against_measured(
    predicted: Array,
    measured: Array,
    *,
    targets: Sequence[str],
    held_out: np.ndarray,
    widths: Array | None = None,
) -> Figure:
    """Relative misses against the measured loss: held-out rows in colour, fitted ones in grey.

    Arrays are (row, target), `held_out` is a mask over rows and `widths` half the 95% intervals'
    widths in log loss: held-out rows outside their interval are ringed.
    """
    drawing, axes = grid_of_axes(targets)
    misses = 100 * (predicted / measured - 1)
    outside = np.zeros(misses.shape, dtype=bool)
    if widths is not None:
        outside = np.abs(np.log(predicted / measured)) > widths
    # The few largest misses stand at the edge, or they would flatten all others.
    span = 1.2 * float(np.nanquantile(np.abs(misses), 0.995)) or 1.0
    for number, (axis, name) in enumerate(zip(axes, targets, strict=True)):
        x, out = measured[:, number], outside[:, number]
        y = np.clip(misses[:, number], -0.97 * span, 0.97 * span)
        axis.axhline(0, color=INK, lw=0.8)
        axis.plot(x[~held_out], y[~held_out], ".", color=GREY, ms=4)
        axis.plot(x[held_out], y[held_out], "o", color=LAW_COLOUR, ms=3.5, alpha=0.75, mew=0)
        ringed = held_out & out
        axis.plot(x[ringed], y[ringed], "o", mfc="none", mec=INK, ms=7, mew=0.9)
        axis.set_ylim(-span, span)
        error = np.nanmean(np.abs(misses[held_out, number])) if held_out.any() else np.nan
        dress(axis, f"{name}  (held out: {error:.2f}%)", "")
    handles = [
        Line2D([], [], color=LAW_COLOUR, marker="o", ls="", ms=4, label="held out"),
        Line2D([], [], color=GREY, marker=".", ls="", label="fitted on"),
    ]
    if widths is not None:
        handles.append(
            Line2D([], [], mfc="none", mec=INK, marker="o", ls="", ms=7,
                   label="held out, outside its 95% interval")
        )  # fmt: skip
    drawing.legend(handles=handles, fontsize=9, frameon=False, ncols=3, loc="outside upper left")
    drawing.supxlabel("measured loss (nats per token)", fontsize=9, color=INK)
    drawing.supylabel("predicted - measured (%)", fontsize=9, color=INK)
    return drawing


def coverage(misses: Mapping[str, Array], widths: Mapping[str, Array]) -> Figure:
    """The part of held-out losses inside their interval against the part that should be.

    `misses` are |log predicted - log measured|, `widths` half the 95% intervals' widths in log
    loss, both by label; intervals of other levels are these, scaled as a normal distribution's.
    """
    drawing = figure(4.6, 4.2)
    axis = drawing.subplots()
    nominal = np.linspace(0.02, 0.995, 120)
    scale = norm.ppf(0.5 + nominal / 2) / norm.ppf(0.975)
    axis.plot([0, 100], [0, 100], color=INK, lw=0.8, ls="--", label="as it should be")
    axis.vlines(95, 90, 99, color=INK, lw=3, alpha=0.45, label="95%: 90 to 99% is allowed")
    for number, (label, miss) in enumerate(misses.items()):
        inside = [np.mean(miss <= one * widths[label]) for one in scale]
        at95 = 100 * np.mean(miss <= widths[label])
        colour = SERIES[number % len(SERIES)]
        axis.plot(100 * nominal, 100 * np.array(inside), color=colour, lw=1.6,
                  label=f"{label}: {at95:.1f}% in the 95% interval")  # fmt: skip
    axis.set_xlim(0, 100)
    axis.set_ylim(0, 101)
    dress(axis, "Held-out losses inside their intervals", "nominal (%)")
    axis.set_ylabel("actual (%)", fontsize=9, color=INK)
    axis.legend(fontsize=8, frameon=False, loc="lower right")
    return drawing


def regret_against_runs(runs: Sequence[int], regrets: Mapping[str, Array]) -> Figure:
    """Median regret in nats against the number of runs, with the middle half of the seeds.

    `regrets` are (seed, len(runs)) by label.
    """
    drawing = figure(5.6, 3.8)
    axis = drawing.subplots()
    # Zero has no logarithm: what is smaller than this is drawn at the foot.
    positive = np.concatenate([np.ravel(found)[np.ravel(found) > 0] for found in regrets.values()])
    foot = float(positive.min()) / 2 if len(positive) else 1e-6
    for number, (label, found) in enumerate(regrets.items()):
        low, middle, high = np.maximum(np.quantile(found, [0.25, 0.5, 0.75], axis=0), foot)
        colour = SERIES[number % len(SERIES)]
        axis.fill_between(runs, low, high, color=colour, alpha=0.15, lw=0)
        axis.plot(runs, middle, color=colour, marker=MARKERS[number % len(MARKERS)], ms=4, lw=1.6,
                  label=label)  # fmt: skip
    axis.set_yscale("log")
    dress(axis, "Regret of the chosen mixture", "training runs")
    axis.set_ylabel("nats above the best mixture", fontsize=9, color=INK)
    axis.set_xticks(list(runs), [f"{count}" for count in runs])
    axis.legend(fontsize=8.5, frameon=False, title="median, middle half of seeds",
                title_fontsize=8, alignment="left")  # fmt: skip
    return drawing
