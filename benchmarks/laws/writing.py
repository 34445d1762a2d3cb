"""The table file: what was run where, on what, and what came out."""

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from benchmarks.laws.contenders import SHARE_FLOOR
from benchmarks.laws.facts import Fact
from benchmarks.laws.tables import SOURCES

# Name of the score, heading, digits.
COLUMNS = (
    ("n", "n", 0),
    ("mre", "MRE %", 2),
    ("spearman", "Spearman", 3),
    ("r2", "R2", 3),
    ("r2_pooled", "R2 pooled", 4),
    ("rmse", "RMSE", 4),
    ("regret1", "regret@1", 4),
    ("regret10", "regret@10", 4),
    ("regret1_60m", "regret@1 at 60M", 4),
    ("regret10_60m", "regret@10 at 60M", 4),
    ("optimism", "lower-tail optimism", 4),
    ("coverage", "coverage of 95% interval", 1),
    ("width", "half-width %", 2),
    ("seconds", "seconds", 2),
)
PACKAGES = ("numpy", "scipy", "lightgbm")

Cells = Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]  # row to contender to seeds


def document(
    rows: Cells,
    facts: Sequence[Fact],
    skipped: Mapping[tuple[str, str], Sequence[str]],
    sums: Mapping[str, str | None],
    *,
    command: str,
    seconds: float,
) -> str:
    """The whole file as Markdown."""
    parts = [_head(command, seconds)]
    parts += [_section(name, found) for name, found in rows.items()]
    if facts:
        parts.append(_facts(facts))
    if skipped:
        lines = [
            f"* {who} in {', '.join(sorted(keys))}: {why}"
            for (who, why), keys in sorted(skipped.items())
        ]
        parts.append("## Not run\n\n" + "\n".join(lines))
    parts.append(_sources(sums))
    return "\n\n".join(parts) + "\n"


def _head(command: str, seconds: float) -> str:
    return f"""# Laws beside their peers, on held-out mixtures

Made {datetime.now(UTC):%Y-%m-%d} by `{command}` in {seconds / 60:.1f} minutes on {machine()}.
Repeat it with `make bench-laws DATA=DIR`, DIR holding the tables named at the end.

Whole mixtures are held out, with all their sizes and checkpoints. MRE, Spearman and R2 are taken
per target over the held-out rows, then averaged over targets; ± is the standard deviation over
seeds, each of which holds out other mixtures. `n` counts held-out losses, or mixtures of a choice.
Regret and optimism are in nats of the mean loss over targets: see `benchmarks/laws/scores.py`.
SLDBench's R2 is taken within each model size, so that knowing the size earns nothing; "pooled" is
over sizes. Laws without a model size are fitted at each size by itself; laws of the mixture alone
at each size and step. Laws undefined at a share of 0 read it as {SHARE_FLOOR:g}. Seconds are of
one fit, while another ran on the second core."""


def machine() -> str:
    """This machine in words: processor, cores, versions."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0].split(":", 1)[1].strip() if models else name
    versions = ", ".join(f"{package} {_version(package)}" for package in PACKAGES)
    return f"{os.cpu_count()} cores of {name}, Python {platform.python_version()}, {versions}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _section(name: str, found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    told = {key for seeds in found.values() for one in seeds for key in one}
    columns = [column for column in COLUMNS if column[0] in told]
    # The best first, so that a reader sees who won where.
    order = sorted(found, key=lambda one: _rank(found[one], columns))
    lines = [_line(["law", "seeds", *(heading for _, heading, _ in columns)])]
    lines.append("|" + "---|" * (len(columns) + 2))
    for who in order:
        seeds = found[who]
        lines.append(_line([who, str(len(seeds)), *(_cell(seeds, *column) for column in columns)]))
    return f"## {name}\n\n" + "\n".join(lines)


def _rank(seeds: Sequence[Mapping[str, float]], columns: Sequence[tuple[str, str, int]]) -> float:
    names = [name for name, _, _ in columns]
    by = next(name for name in ("mre", "rmse", "spearman") if name in names)
    value = float(np.mean([one.get(by, np.nan) for one in seeds]))
    value = -value if by == "spearman" else value
    return np.inf if np.isnan(value) else value


def _cell(seeds: Sequence[Mapping[str, float]], name: str, heading: str, digits: int) -> str:
    values = np.array([one[name] for one in seeds if name in one])
    if not len(values) or np.isnan(values).all():
        return "–"
    mean = f"{np.nanmean(values):.{digits}f}"
    if len(values) == 1 or name in ("n", "seconds"):
        return mean
    return f"{mean} ± {np.nanstd(values, ddof=1):.{digits}f}"


def _facts(facts: Sequence[Fact]) -> str:
    lines = [_line(["what", "measured", "to reach"]), "|---|---|---|"]
    return "## Known optima, speed, optimism\n\n" + "\n".join(
        lines + [_line(fact) for fact in facts]
    )


def _sources(sums: Mapping[str, str | None]) -> str:
    lines = [_line(["file under DIR", "from", "SHA-256"]), "|---|---|---|"]
    lines += [
        _line([f"`{name}`", SOURCES[name], f"`{found}`" if found else "missing"])
        for name, found in sums.items()
    ]
    return "## Tables\n\n" + "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
