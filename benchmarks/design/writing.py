"""The table and the picture of regret against the number of runs."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, median

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.laws.writing import machine
from mixlab.plots.style import INK, dress, figure, save

# Regrets in nats by world, way and number of runs, over seeds.
Paths = dict[str, dict[str, dict[int, list[float]]]]
ByRuns = Mapping[int, Sequence[float]]
COLOURS = {"random": "#7f7f7f", "filling": "#e69f00", "next runs": "#009e73"}
MARKERS = {"random": "o", "filling": "^", "next runs": "s"}
LEAST_SHOWN = 1e-4  # nats: 0 has no logarithm
COLUMNS, FEW = 2, 100
TITLES = {
    "tilted": "tilted: the law fitted is the truth",
    "exponential": "exponential: the truth is another law",
    "paired": "paired: the truth is no law",
}

HEAD = """Regret is the true mean loss at the proposed mixture above the least one, in thousandths
of a nat: the median over seeds, and their mean in brackets. Each seed is another world, other noise
and another start; none was used to choose how runs are proposed. Every way has the same fit and
the same rule for the answer.

The worlds have seven domains and 0.5 % of noise; bimix_tilt is fitted, which is the truth in
`tilted` alone (`benchmarks/design/truths.py`). Random mixtures are even draws from the simplex;
`filling` keeps them far apart; `next runs` starts with 8 that fill the middle
(`filling_mixtures(..., reach=0.6)`) and adds 4 at a time.
RegMix's 512 measured runs (17 domains, 13 targets) serve as a pool: a design may ask for any of
them and proposes one, by its measured loss where it was run and by bimix_saturating where not;
random designs are draws from it, and next runs come 8 at a time after 16 drawn at random.

The last rows say with how many runs each way gets to, and stays at, at most the regret that random
designs have with their last number of runs."""


def document(paths: Paths, *, command: str, seconds: float) -> str:
    """The whole file as Markdown."""
    made = f"Made {datetime.now(UTC):%Y-%m-%d} by `{command}`"
    head = f"# Runs that a design needs\n\n{made} in {seconds / 60:.1f} minutes on {machine()}."
    sections = [_section(name, found) for name, found in _ordered(paths)]
    return "\n\n".join([head, HEAD, *sections]) + "\n"


def picture(paths: Paths, to: Path) -> None:
    """Regret against the number of runs, a panel per world, saved as the suffix says."""
    rows = -(-len(paths) // COLUMNS)
    drawing = figure(3.9 * min(COLUMNS, len(paths)), 2.8 * rows + 0.6)
    panels = drawing.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axis, (name, found) in zip(panels, _ordered(paths), strict=False):
        for way, by_runs in found.items():
            _draw(axis, way, by_runs)
        _mark(axis, found["random"])
        _scale(axis, max(found["random"]))
        dress(axis, TITLES.get(name, name), "training runs")
        axis.set_ylabel("regret, nats", fontsize=9, color=INK)
    for axis in panels[len(paths) :]:
        axis.set_visible(False)
    shown: dict[str, Artist] = {}
    for axis in panels:
        shown |= {one.get_label(): one for one in axis.get_lines()}
    drawing.legend(
        list(shown.values()), list(shown), loc="outside lower center", ncols=len(shown),
        fontsize=8.5, frameon=False, title="median of seeds; bands: their middle half",
        title_fontsize=8.5,
    )  # fmt: skip
    save(drawing, to)


def _scale(axis: Axes, most: int) -> None:
    """A logarithm with few, plain numbers; at its foot is all that is less."""
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{'≤ ' if value <= LEAST_SHOWN * 1.01 else ''}{value:g}")
    )
    axis.set_xticks(range(0, most + 1, 16 if most < FEW else 32))


def _draw(axis: Axes, way: str, by_runs: ByRuns) -> None:
    """The median, and a band of the middle half of the seeds."""
    runs = sorted(by_runs)
    quarters = [np.quantile(by_runs[number], [0.25, 0.5, 0.75]) for number in runs]
    low, middle, high = np.maximum(np.array(quarters), LEAST_SHOWN).T
    axis.fill_between(runs, low, high, color=COLOURS[way], alpha=0.15, lw=0)
    axis.plot(
        runs, middle, color=COLOURS[way], marker=MARKERS[way], ms=3.5, lw=1.6, label=way,
    )  # fmt: skip


def _mark(axis: Axes, by_runs: ByRuns) -> None:
    """A line at random's last regret."""
    last = max(LEAST_SHOWN, median(by_runs[max(by_runs)]))
    axis.axhline(last, color=COLOURS["random"], lw=0.8, ls=":", label="random's last")


def _ordered(paths: Paths) -> list[tuple[str, dict[str, dict[int, list[float]]]]]:
    """Worlds by name and ways as they are coloured, since they end in any order."""
    return [
        (name, {way: dict(sorted(found[way].items())) for way in COLOURS if way in found})
        for name, found in sorted(paths.items(), key=lambda pair: pair[0].lower())
    ]


def _section(name: str, found: Mapping[str, ByRuns]) -> str:
    runs = sorted({number for by_runs in found.values() for number in by_runs})
    seeds = max(len(one) for by_runs in found.values() for one in by_runs.values())
    lines = ["| runs | " + " | ".join(found) + " |", "|---" * (len(found) + 1) + "|"]
    for number in runs:
        cells = [_cell(by_runs.get(number)) for by_runs in found.values()]
        lines.append(f"| {number} | " + " | ".join(cells) + " |")
    for word, summary in (("median", median), ("mean", fmean)):
        needed = " | ".join(_needed(found, summary))
        lines.append(f"| for random's last, by the {word} | {needed} |")
    return f"## {name}\n\n{seeds} seeds\n\n" + "\n".join(lines)


def _cell(regrets: Sequence[float] | None) -> str:
    if regrets is None:
        return "–"
    return f"{1000 * median(regrets):.2f} ({1000 * fmean(regrets):.2f})"


def _needed(found: Mapping[str, ByRuns], summary: Callable[[Sequence[float]], float]) -> list[str]:
    """With how many runs each way has at most random's last regret, from then on."""
    last = summary(found["random"][max(found["random"])])
    needed = []
    for by_runs in found.values():
        above = [number for number in by_runs if summary(by_runs[number]) > last]
        enough = [number for number in sorted(by_runs) if number > max(above, default=0)]
        needed.append(str(enough[0]) if enough else f"> {max(by_runs)}")
    return needed
