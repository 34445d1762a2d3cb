"""The report of a demo run: one JSON document, and a self-contained page made from it.

Keys: domains, mixtures, proxy_runs, observations, fit, long_run, target_runs,
seconds, and target, budget_tokens, proxy_steps, notes, machine, version beside them.
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
    """What came out, whichever way it came out."""
    runs, noise = report["target_runs"], report["fit"]["gain_noise_nats"]
    gain = runs["solved"]["measured_gain_nats"]
    against = "lower" if gain >= 0 else "higher"
    first = (
        f"In the bigger run the solved mixture's loss was {abs(gain):.4f} nats per token {against} "
        f"than the natural mixture's ({times_noise(gain, noise)})."
    )
    others = {kind: run["measured_gain_nats"] for kind, run in runs.items() if kind != "solved"}
    best = max(others, key=lambda kind: others[kind])
    lead = gain - others[best]
    if lead < 0:
        first += (
            f" The {best} mixture did better still, by {-lead:.4f} ({times_noise(lead, noise)})."
        )
    error = abs(report["long_run"]["relative_error_percent"])
    steps = report["long_run"]["steps"]
    return (
        f"{first} The law predicted the loss of a {steps:,}-step run on the solved mixture "
        f"within {error:.2f} % before it ran."
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
