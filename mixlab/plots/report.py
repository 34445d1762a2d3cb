"""Pictures of a demo's report (see `mixlab/report.py` for its shape)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

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


def shares(report: Report) -> Figure:
    """For each domain: the proxy runs' losses against its share, and the fitted law."""
    names = [domain["name"] for domain in report["domains"]]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    drawing = figure(4.0 * columns, 2.9 * rows)
    axes = np.atleast_1d(drawing.subplots(rows, columns, squeeze=False)).ravel()
    for axis, name in zip(axes, names, strict=False):
        _draw_share(axis, report, name)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    drawing.legend(
        handles=[
            Line2D([], [], color=INK, marker="o", ls="", ms=3.5, label="proxy runs, last step"),
            Line2D([], [], color=LAW_COLOUR, label="law, last step"),
            Line2D([], [], color=COLOURS["natural"], ls="--", label="natural share"),
            Line2D([], [], color=COLOURS["solved"], ls="--", label="solved share"),
        ],
        fontsize=9, frameon=False, ncols=4, loc="outside upper left",
    )  # fmt: skip
    drawing.supxlabel("share of training tokens (logarithmic)", fontsize=9, color=INK)
    drawing.supylabel("validation loss (nats per token)", fontsize=9, color=INK)
    return drawing


def predictions(report: Report) -> Figure:
    """Per domain, the loss that the law predicted for the longer run beside the measured one."""
    found = report["long_run"]["domains"]
    drawing = figure(7.0, 0.9 + 0.42 * len(found))
    axis = drawing.subplots()
    rows = np.arange(len(found))
    predicted = np.array([entry["predicted_nats"] for entry in found.values()])
    measured = np.array([entry["measured_nats"] for entry in found.values()])
    axis.hlines(rows, predicted, measured, color=GREY, lw=2, zorder=1)
    axis.plot(predicted, rows, "o", color=LAW_COLOUR, ms=6, label="predicted", zorder=2)
    axis.plot(measured, rows, "o", color=COLOURS["solved"], ms=6, label="measured", zorder=3)
    for row, error in zip(rows, 100 * (predicted / measured - 1), strict=True):
        place = (max(predicted[row], measured[row]), row)
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
    steps = np.geomspace(min(row["step"] for row in report["observations"]), long_run["steps"], 80)
    axis.plot(
        steps,
        mean_law(report, report["mixtures"]["solved"], steps),
        color=LAW_COLOUR,
        lw=1.6,
        label="law, solved mixture",
        zorder=2,
    )
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


def mean_law(report: Report, mixture: Mapping[str, float], steps: np.ndarray) -> np.ndarray:
    """The law's mean over domains at each step, shape (step,)."""
    curves = [law_curve(report, name, share, steps) for name, share in mixture.items()]
    return np.asarray(np.mean(curves, axis=0))


def law_curve(report: Report, domain: str, share: Any, step: Any) -> np.ndarray:
    """BiMix with the report's parameters: share^-alpha (scale step^-beta + floor)."""
    found = report["fit"]["domains"][domain]["parameters"]
    return np.asarray(
        share ** -found["alpha"] * (found["scale"] * step ** -found["beta"] + found["floor"])
    )


def _draw_share(axis: Axes, report: Report, name: str) -> None:
    last = max(row["step"] for row in report["observations"])
    rows = [row for row in report["observations"] if row["step"] == last]
    seen = np.array([row["mixture"][name] for row in rows])
    losses = np.array([row["losses_nats"][name] for row in rows])
    axis.plot(seen, losses, "o", color=INK, ms=3.5, alpha=0.75)
    grid = np.geomspace(seen.min() * 0.9, min(1.0, seen.max() * 1.1), 60)
    axis.plot(grid, law_curve(report, name, grid, last), color=LAW_COLOUR, lw=1.4)
    for kind in ("natural", "solved"):
        axis.axvline(report["mixtures"][kind][name], color=COLOURS[kind], lw=1.2, ls="--")
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    axis.set_xticks([t for t in (0.03, 0.1, 0.3) if grid[0] <= t <= grid[-1]])
    axis.minorticks_off()
    error = report["fit"]["domains"][name]["heldout_mre_percent"]
    known = "" if error is None else f"  (held-out error {error:.1f}%)"
    dress(axis, name + known, "")
