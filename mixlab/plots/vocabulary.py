"""A picture of how much of a corpus the first tokens of a tokenizer cover."""

from math import ceil, log2

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from mixlab.mixture import Array
from mixlab.plots.style import GREY, INK, LAW_COLOUR, SOLVED_COLOUR, dress, figure

POINTS = 400
MOST_LABELS = 10
LABELS_APART = 1.4


def vocabulary_coverage(
    covered: Array,
    *,
    fixed: int,
    chosen: int | None = None,
    least: int | None = None,
    most: int | None = None,
) -> Figure:
    """Coverage against the size of the vocabulary, from what must stay to the whole.

    `covered` is (token,), the share that the first so many cover, of which `fixed` must stay.
    `least` and `most` are drawn as the ends of what the rules of thumb allow, `chosen` as a dot.
    """
    drawing = figure(5.6, 4.1)
    axis = drawing.subplots()
    sizes = np.unique(np.geomspace(fixed, len(covered), POINTS).round().astype(int))
    axis.plot(sizes, 100 * covered[sizes - 1], color=LAW_COLOUR, lw=1.8)
    if least is not None and most is not None and least <= most:
        axis.axvspan(least, most, color=SOLVED_COLOUR, alpha=0.12, lw=0, label="both rules hold")
    if least is not None:
        label = f"from {least:,} on enough is covered"
        axis.axvline(least, color=INK, lw=0.8, ls="--", label=label)
    if most:
        label = f"up to {most:,} tables are small enough"
        axis.axvline(most, color=INK, lw=0.8, ls=":", label=label)
    if chosen is not None:
        share = 100 * covered[chosen - 1]
        axis.plot([chosen], [share], "o", color=SOLVED_COLOUR, ms=6,
                  label=f"{chosen:,} tokens cover {share:.1f}%")  # fmt: skip
    axis.axhline(100, color=GREY, lw=0.8)
    axis.set_xscale("log")
    left, right = axis.get_xlim() if len(sizes) > 1 else (fixed / 2, fixed * 2)
    axis.set_xlim(left, right)
    ticks = _ticks(fixed, len(covered), across=right / left)
    axis.set_xticks(ticks, [f"{size:,}" for size in ticks])
    axis.xaxis.set_minor_locator(NullLocator())
    dress(axis, "What the most frequent tokens cover", "tokens kept (logarithmic)")
    axis.set_ylabel("tokens of the corpus at the mixture (%)", fontsize=9, color=INK)
    if axis.get_legend_handles_labels()[0]:
        # Below, since the lines may stand anywhere in the picture.
        drawing.legend(fontsize=8.5, frameon=False, loc="outside lower center", ncols=2)
    return drawing


def _ticks(fixed: int, size: int, *, across: float) -> list[int]:
    """What must stay, and the whole with its halves, or as many of these as have room.

    `across` is how many times as large the right end of the axis is as the left one.
    """
    halvings = ceil(log2(across) / MOST_LABELS)
    parts = [size >> halving for halving in range(0, size.bit_length(), halvings)]
    return [fixed, *(part for part in parts if part >= LABELS_APART * fixed)]
