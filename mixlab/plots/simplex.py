"""Pictures of mixtures: three domains as a triangle, and several mixtures side by side.

Each function takes plain arrays or mappings by domain name and gives a matplotlib figure.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from mixlab.mixture import Array
from mixlab.plots.style import INK, LAW_COLOUR, SERIES, SOLVED_COLOUR, dress, figure

MARKS = (("*", LAW_COLOUR), ("P", "#cc79a7"), ("X", "#0072b2"))  # of named mixtures, in turn


def ternary(
    shares: Array,
    losses: Array,
    *,
    domains: Sequence[str],
    runs: Array | None = None,
    marked: Mapping[str, Array] | None = None,
) -> Figure:
    """Loss over all mixtures of three domains: `shares` (row, 3) of a grid, `losses` (row,).

    `runs` are the mixtures that were trained, `marked` further ones to name.
    """
    drawing = figure(6.0, 4.4)
    axis = drawing.subplots()
    known = np.isfinite(losses)
    low, high = np.quantile(losses[known], [0, 0.92])
    levels = np.linspace(low, high if high > low else low + 1, 15)
    x, y = _corner(shares[known]).T
    image = axis.tricontourf(x, y, losses[known], levels=levels, cmap="viridis_r", extend="max")
    axis.tricontour(x, y, losses[known], levels=levels, colors="white", linewidths=0.4)
    if runs is not None:
        axis.plot(*_corner(runs).T, "o", color="white", mec=INK, mew=0.7, ms=4, label="runs")
    for number, (name, one) in enumerate((marked or {}).items()):
        marker, colour = MARKS[number % len(MARKS)]
        place = _corner(np.asarray(one)[None, :]).T
        axis.plot(*place, marker, color=colour, mec="white", ms=14, label=name)
    _draw_triangle(axis, domains)
    bar = drawing.colorbar(image, ax=axis, shrink=0.75, pad=0.04, format="%.3f")
    bar.set_label("predicted loss (nats per token)", fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK)
    if runs is not None or marked:
        axis.legend(fontsize=8.5, frameon=False, loc="upper left", bbox_to_anchor=(-0.12, 1.02))
    return drawing


def mixtures(
    found: Mapping[str, Mapping[str, float]],
    *,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> Figure:
    """Mixtures side by side. `ranges` are the shares that can't be told from the last mixture's."""
    names = list(dict.fromkeys(name for mixture in found.values() for name in mixture))
    drawing = figure(7.0, 1.1 + 0.17 * len(names) * (len(found) + 0.6))
    axis = drawing.subplots()
    height = 0.8 / len(found)
    others = [colour for colour in SERIES if colour != SOLVED_COLOUR]
    for number, (label, mixture) in enumerate(found.items()):
        places = np.arange(len(names)) + (number - (len(found) - 1) / 2) * height
        values = np.array([100 * mixture.get(name, 0.0) for name in names])
        last = number == len(found) - 1
        colour = SOLVED_COLOUR if last else others[number % len(others)]
        axis.barh(places, values, height=0.9 * height, color=colour, label=label)
        if last and ranges:
            _draw_ranges(axis, names, places, ranges)
    axis.set_yticks(np.arange(len(names)), names, fontsize=8.5)
    axis.invert_yaxis()
    dress(axis, "", "share of training tokens (%)", grid="x")
    # Lines come before bars by themselves; the ranges belong to the last bar.
    handles, _ = axis.get_legend_handles_labels()
    handles.sort(key=lambda handle: isinstance(handle, LineCollection))
    drawing.legend(handles=handles, fontsize=8.5, frameon=False, ncols=4, loc="outside upper left")
    return drawing


def _corner(shares: Array) -> Array:
    """Places in an equilateral triangle, (row, 2): first domain left, second right, third top."""
    return np.stack([shares[:, 1] + shares[:, 2] / 2, shares[:, 2] * np.sqrt(3) / 2], axis=1)


def _draw_triangle(axis: Axes, domains: Sequence[str]) -> None:
    corners = _corner(np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]], dtype=float))
    axis.plot(*corners.T, color=INK, lw=1)
    for (x, y), name, down in zip(corners[:3], domains, (-1, -1, 1), strict=True):
        axis.annotate(
            f"all {name}", (x, y), xytext=(0, 7 * down), textcoords="offset points",
            ha="center", va="top" if down < 0 else "bottom", fontsize=9, color=INK,
        )  # fmt: skip
    axis.set_aspect("equal")
    axis.set_axis_off()


def _draw_ranges(
    axis: Axes, names: Sequence[str], places: np.ndarray, ranges: Mapping[str, tuple[float, float]]
) -> None:
    told = [row for row, name in enumerate(names) if name in ranges]
    low, high = (np.array([100 * ranges[names[row]][end] for row in told]) for end in (0, 1))
    axis.hlines(places[told], low, high, color=INK, lw=1.6, label="as good, as far as is known")
    axis.plot(np.concatenate([low, high]), np.tile(places[told], 2), "|", color=INK, ms=5)
