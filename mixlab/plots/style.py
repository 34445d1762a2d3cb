"""The look that all pictures share. Colours are Okabe and Ito's, told apart by the colour-blind."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mixlab.errors import NotWritten

INK = "#333333"
GREY = "#bbbbbb"
LAW_COLOUR = "#d55e00"
SOLVED_COLOUR = "#009e73"
SERIES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7f7f7f", "#332288")
MARKERS = "osD^vP*X"


def figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def grid_of_axes(names: Sequence[str], *, columns: int = 3) -> tuple[Figure, list[Axes]]:
    """One small picture a name, in rows."""
    columns = min(columns, len(names))
    rows = -(-len(names) // columns)
    found = figure(4.0 * columns, 2.8 * rows + 0.5)
    found.get_layout_engine().set(h_pad=0.09)  # type: ignore[union-attr, call-arg]
    axes = np.atleast_1d(found.subplots(rows, columns, squeeze=False)).ravel()
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    return found, list(axes[: len(names)])


def dress(axis: Axes, title: str, xlabel: str, *, grid: str = "y") -> None:
    """Title, axis label, light grid, no frame."""
    axis.set_title(title, fontsize=10, color=INK, loc="left", fontweight="bold")
    axis.set_xlabel(xlabel, fontsize=9, color=INK)
    axis.tick_params(labelsize=8.5, colors=INK, length=3)
    axis.grid(visible=True, axis="x" if grid == "x" else "y", color="#e6e6e6", lw=0.7)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color("#999999")


def as_svg(found: Figure) -> str:
    """The figure as an SVG element that can stand inside a page."""
    text = io.StringIO()
    found.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def check_picture(path: Path) -> None:
    """Raise NotWritten for a file whose suffix is no picture's."""
    known = Figure().canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in known:
        raise NotWritten(
            f"{path} can't be drawn: its suffix says what kind of picture it is, and is "
            f"{path.suffix or 'missing'!r}; take .png, .svg or .pdf."
        )


def save(found: Figure, path: Path) -> None:
    """Write the figure as the file's suffix says. Raises NotWritten for one of no picture."""
    check_picture(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    found.savefig(path, dpi=150)
