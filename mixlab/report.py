"""The report of a demo run: one JSON document, and a self-contained page made from it.

Keys: domains, mixtures, proxy_runs, observations, fit, long_run, target_runs,
seconds, and target, budget_tokens, proxy_steps, machine, version beside them.
Losses are in nats per token; `measured_nats` of a run is the mean over domains.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mixlab import plots

Report = Mapping[str, Any]

FIGURES = {
    "overview": plots.overview,
    "shares": plots.shares,
    "predictions": plots.predictions,
}


def write_pictures(report: Report, folder: Path) -> list[Path]:
    """Each figure as a PNG file in the folder."""
    paths = []
    for name, draw in FIGURES.items():
        path = folder / f"{name}.png"
        plots.save(draw(report), path)
        paths.append(path)
    return paths


def html(report: Report) -> str:
    """The report as one page that needs no other file."""
    environment = Environment(
        loader=PackageLoader("mixlab", "templates"), undefined=StrictUndefined, autoescape=True
    )
    figures = {name: plots.as_svg(draw(report)) for name, draw in FIGURES.items()}
    return environment.get_template("report.html").render(
        **report, figures=figures, verdict=verdict(report), law_text=law_text(report)
    )


def verdict(report: Report) -> str:
    """What came out, in two sentences, whichever way it came out."""
    runs = report["target_runs"]
    best = min(runs, key=lambda kind: runs[kind]["measured_nats"])
    gain, noise = runs["solved"]["measured_gain_nats"], report["fit"]["gain_noise_nats"]
    size = f"{gain:+.4f} nats per token against the natural mixture"
    if best == "solved":
        first = f"The solved mixture won the bigger run: {size}, {times_noise(gain, noise)}."
    else:
        first = f"The solved mixture did not win the bigger run, {best} did: {size} for solved."
    error = report["long_run"]["relative_error_percent"]
    return (
        f"{first} The law predicted a run {report['long_run']['steps']:,} steps long, "
        f"within {abs(error):.2f} % of what was then measured."
    )


def times_noise(gain: float, noise: float | None) -> str:
    """A gain in units of the difference that the seed alone makes."""
    return f"{abs(gain) / noise:.1f} times the seed noise" if noise else "seed noise not measured"


def law_text(report: Report) -> str:
    """The law in words, with what its columns mean."""
    return (
        "BiMix: a domain's loss is share^-alpha x (scale x step^-beta + floor), fitted per domain "
        f"on {len(report['observations'])} observations of {len(report['proxy_runs'])} proxy runs. "
        "The held-out error is the mean relative error on mixtures left out of the fit; the seed "
        "noise is the standard deviation between runs that differ in their seed alone."
    )
