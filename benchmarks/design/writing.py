"""The table and the picture of regret against the number of runs."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure

from benchmarks.laws.writing import machine

# Regrets in nats by world, way and number of runs, over seeds.
Paths = dict[str, dict[str, dict[int, list[float]]]]
COLOURS = {"random": "#7f7f7f", "filling": "#e69f00", "next runs": "#009e73"}
INK = "#333333"
LEAST_SHOWN = 1e-4


def document(paths: Paths, *, command: str, seconds: float) -> str:
    """The whole file as Markdown."""
    head = f"""# Runs that a design needs

Made {datetime.now(UTC):%Y-%m-%d} by `{command}` in {seconds / 60:.1f} minutes on {machine()}.

Regret is the true mean loss at the proposed mixture above the least one, in thousandths of a nat;
the median over seeds, each of which is another world, other noise and another start. The worlds
have seven domains and 0.5 % of noise; bimix_tilt is fitted, which is the truth in one of them
alone (`benchmarks/design/truths.py`). RegMix's 512 measured runs (17 domains, 13 targets) serve as
a pool: a design may ask for any of them and proposes one; random designs are draws from it. Half
of the runs: the last row says with how many runs each way first has at most the regret that random
designs have in the end."""
    return "\n\n".join([head, *(_section(name, found) for name, found in _ordered(paths))]) + "\n"


def picture(paths: Paths, to: Path) -> None:
    """Regret against the number of runs, a panel per world, saved as the suffix says."""
    figure = Figure(figsize=(3.3 * len(paths), 3.3), layout="constrained")
    panels = figure.subplots(1, len(paths), squeeze=False)[0]
    for axis, (name, found) in zip(panels, _ordered(paths), strict=True):
        for way, by_runs in found.items():
            middle, low, high = (_quantile(by_runs, part) for part in (0.5, 0.25, 0.75))
            runs = sorted(by_runs)
            axis.fill_between(runs, low, high, color=COLOURS[way], alpha=0.15, lw=0)
            axis.plot(runs, middle, "o-", color=COLOURS[way], ms=3.5, lw=1.6, label=way)
        axis.set_yscale("log")
        axis.set_title(name, fontsize=10, color=INK, loc="left", fontweight="bold")
        axis.set_xlabel("training runs", fontsize=9, color=INK)
        axis.grid(visible=True, axis="y", color="#e6e6e6", lw=0.7)
        axis.tick_params(labelsize=8.5, colors=INK, length=3)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    panels[0].set_ylabel("regret of the proposed mixture (nats)", fontsize=9, color=INK)
    panels[0].legend(fontsize=8.5, frameon=False)
    figure.savefig(to, dpi=150, metadata={"Date": None})


def _ordered(paths: Paths) -> list[tuple[str, dict[str, dict[int, list[float]]]]]:
    """Worlds by name and ways as they are coloured, since they end in any order."""
    return [
        (name, {way: dict(sorted(found[way].items())) for way in COLOURS if way in found})
        for name, found in sorted(paths.items(), key=lambda pair: pair[0].lower())
    ]


def _quantile(by_runs: Mapping[int, Sequence[float]], part: float) -> list[float]:
    found = []
    for runs in sorted(by_runs):
        ordered = sorted(by_runs[runs])
        place = part * (len(ordered) - 1)
        below, above = ordered[int(place)], ordered[min(int(place) + 1, len(ordered) - 1)]
        found.append(max(LEAST_SHOWN, below + (place - int(place)) * (above - below)))
    return found


def _section(name: str, found: Mapping[str, Mapping[int, Sequence[float]]]) -> str:
    runs = sorted({number for by_runs in found.values() for number in by_runs})
    seeds = max(len(one) for by_runs in found.values() for one in by_runs.values())
    lines = ["| runs | " + " | ".join(found) + " |", "|---" * (len(found) + 1) + "|"]
    for number in runs:
        cells = [_cell(by_runs.get(number)) for by_runs in found.values()]
        lines.append(f"| {number} | " + " | ".join(cells) + " |")
    lines.append("| runs for random's last | " + " | ".join(_needed(found)) + " |")
    return f"## {name}\n\n{seeds} seeds\n\n" + "\n".join(lines)


def _cell(regrets: Sequence[float] | None) -> str:
    return "–" if regrets is None else f"{1000 * median(regrets):.2f}"


def _needed(found: Mapping[str, Mapping[int, Sequence[float]]]) -> list[str]:
    """With how many runs each way first has at most random's last regret."""
    last = median(found["random"][max(found["random"])])
    needed = []
    for by_runs in found.values():
        enough = [number for number in sorted(by_runs) if median(by_runs[number]) <= last]
        needed.append(str(enough[0]) if enough else f"> {max(by_runs)}")
    return needed
