"""Pictures of a demo's report (see `mixlab/report.py` for its shape)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mixlab.plots.style import GREY, INK, LAW_COLOUR, SOLVED_COLOUR, dress, figure

Report = Mapping[str, Any]

COLOURS = {
    "natural": "#7f7f7f",
    "uniform": "#56b4e9",
    "conditional_entropy": "#e69f00",
    "solved": SOLVED_COLOUR,
}
LABELS = {
    "natural": "natural",
    "uniform": "uniform",
    "conditional_entropy": "conditional entropy",
    "solved": "solved",
}


def overview(report: Report) -> Figure:
    """What was solved, how the law held over steps, and what the bigger run gained."""
    drawing = figure(12.5, 4.1)
    left, middle, right = drawing.subplots(1, 3, width_ratios=(1.25, 1.0, 0.9))
    draw_mixtures(left, report)
    draw_steps(middle, report)
    draw_gains(right, report)
    return drawing


def predictions(report: Report) -> Figure:
    """Per domain, the loss that the law predicted for the longer run beside the measured one.

    With the 95% prediction interval.
    """
    found = report["long_run"]["domains"]
    drawing = figure(7.0, 0.9 + 0.42 * len(found))
    axis = drawing.subplots()
    rows = np.arange(len(found))
    predicted = np.array([entry["predicted_nats"] for entry in found.values()])
    measured = np.array([entry["measured_nats"] for entry in found.values()])
    low, high = (np.array([one[end] for one in found.values()]) for end in ("low95", "high95"))
    axis.hlines(rows, low, high, color=LAW_COLOUR, alpha=0.25, lw=6, zorder=1, label="95% interval")
    axis.plot(predicted, rows, "o", color=LAW_COLOUR, ms=6, label="predicted", zorder=2)
    axis.plot(measured, rows, "o", color=COLOURS["solved"], ms=6, label="measured", zorder=3)
    for row, error in zip(rows, 100 * (predicted / measured - 1), strict=True):
        place = (max(high[row], measured[row]), row)
        axis.annotate(
            f"{error:+.1f}%", place, xytext=(9, -3), textcoords="offset points", fontsize=8
        )
    axis.set_yticks(rows, list(found), fontsize=8.5)
    axis.invert_yaxis()
    axis.margins(x=0.12)
    steps = f"{report['long_run']['steps']:,}"
    dress(axis, f"Longer run, {steps} steps", "validation loss (nats per token)", grid="x")
    axis.legend(fontsize=8, frameon=False, loc="best")
    return drawing


def draw_mixtures(axis: Axes, report: Report) -> None:
    """Bars of each domain's share in the four mixtures."""
    names = [domain["name"] for domain in report["domains"]]
    kinds = [kind for kind in COLOURS if kind in report["mixtures"]]
    height = 0.8 / len(kinds)
    for number, kind in enumerate(kinds):
        offsets = np.arange(len(names)) + (number - (len(kinds) - 1) / 2) * height
        values = [100 * report["mixtures"][kind][name] for name in names]
        axis.barh(offsets, values, height=0.92 * height, color=COLOURS[kind], label=LABELS[kind])
    axis.set_yticks(np.arange(len(names)), names, fontsize=8.5)
    axis.invert_yaxis()
    dress(axis, "Mixtures", "share of training tokens (%)", grid="x")
    axis.set_title("Mixtures", fontsize=10, color=INK, loc="left", fontweight="bold", pad=20)
    axis.legend(
        fontsize=8, frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(-0.02, 0.985),
        columnspacing=1.0, handlelength=1.2, borderpad=0,
    )  # fmt: skip


def draw_steps(axis: Axes, report: Report) -> None:
    """Mean loss over domains against the step: proxy runs, the law, and the longer run."""
    domains = [domain["name"] for domain in report["domains"]]
    for row in report["observations"]:
        losses = [row["losses_nats"][name] for name in domains]
        axis.plot(row["step"], np.mean(losses), ".", color=GREY, ms=4, zorder=1)
    long_run = report["long_run"]
    law = long_run["law"]
    axis.fill_between(
        law["steps"], law["low95"], law["high95"], color=LAW_COLOUR, alpha=0.16, lw=0, zorder=2
    )
    axis.plot(
        law["steps"], law["nats"], color=LAW_COLOUR, lw=1.6, zorder=2,
        label="laws, solved mixture; 95% interval",
    )  # fmt: skip
    curve = long_run["curve"]
    axis.plot(
        [point["step"] for point in curve],
        [point["measured_nats"] for point in curve],
        "o",
        color=COLOURS["solved"],
        ms=5,
        label="longer run, measured",
        zorder=3,
    )
    axis.plot([], [], ".", color=GREY, label="proxy runs")
    axis.set_xscale("log")
    seen = {row["step"] for row in report["observations"]}
    axis.set_xticks([min(seen), max(seen), long_run["steps"]])
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.minorticks_off()
    dress(axis, "Predicted before it ran", "step")
    axis.set_ylabel("mean loss (nats per token)", fontsize=9)
    axis.legend(fontsize=8, frameon=False)


def draw_gains(axis: Axes, report: Report) -> None:
    """Gain of each mixture over the natural one in the bigger run, predicted and measured."""
    runs = {kind: run for kind, run in report["target_runs"].items() if kind != "natural"}
    places = np.arange(len(runs))
    predicted = [run["predicted_gain_nats"] for run in runs.values()]
    measured = [run["measured_gain_nats"] for run in runs.values()]
    noise = report["fit"].get("gain_noise_nats")
    axis.bar(places - 0.2, predicted, 0.36, color=LAW_COLOUR, label="predicted by the proxy's law")
    axis.bar(
        places + 0.2,
        measured,
        0.36,
        yerr=noise,
        color=COLOURS["solved"],
        error_kw={"ecolor": INK, "capsize": 3, "lw": 1},
        label="measured, ± noise of the seed",
    )
    axis.axhline(0, color=INK, lw=0.8)
    axis.set_xticks(places, [LABELS[kind] for kind in runs], fontsize=8.5)
    dress(axis, "Gain over the natural mixture", "")
    axis.set_ylabel("nats per token (higher is better)", fontsize=9)
    axis.legend(fontsize=8, frameon=False, loc="upper left")
    axis.margins(y=0.25)
