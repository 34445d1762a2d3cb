"""A picture of how much of a corpus the first tokens of a tokenizer cover."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from mixlab.mixture import Array
from mixlab.plots.style import GREY, INK, LAW_COLOUR, SOLVED_COLOUR, dress, figure

POINTS = 400


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
    drawing = figure(5.6, 3.8)
    axis = drawing.subplots()
    sizes = np.unique(np.geomspace(fixed, len(covered), POINTS).round().astype(int))
    axis.plot(sizes, 100 * covered[sizes - 1], color=LAW_COLOUR, lw=1.8)
    if least is not None and most is not None and least <= most:
        axis.axvspan(least, most, color=SOLVED_COLOUR, alpha=0.12, lw=0, label="both rules hold")
    if least is not None:
        axis.axvline(least, color=INK, lw=0.8, ls="--", label="from here on enough is covered")
    if most:
        axis.axvline(most, color=INK, lw=0.8, ls=":", label="up to here tables are small enough")
    if chosen is not None:
        share = 100 * covered[chosen - 1]
        axis.plot([chosen], [share], "o", color=SOLVED_COLOUR, ms=6,
                  label=f"{chosen:,} tokens cover {share:.1f}%")  # fmt: skip
    axis.axhline(100, color=GREY, lw=0.8)
    axis.set_xscale("log")
    halves = [len(covered) >> halving for halving in range(6)]
    ticks = [size for size in halves if size >= fixed]
    axis.set_xticks(ticks, [f"{size:,}" for size in ticks])
    axis.xaxis.set_minor_locator(NullLocator())
    dress(axis, "What the most frequent tokens cover", "tokens kept (logarithmic)")
    axis.set_ylabel("tokens of the corpus at the mixture (%)", fontsize=9, color=INK)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8.5, frameon=False, loc="lower right")
    return drawing
