"""The report of a demo run: one JSON document, and a self-contained page made from it.

Keys: domains, mixtures, proxy_runs, observations, fit, saved_fit, answer, long_run, target_runs,
seconds, and target, budget_tokens, proxy_steps, notes, machine, version beside them.
Losses are in nats per token; `measured_nats` of a run is the mean over domains. Curves are drawn
from the saved fit, whatever laws it holds.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from mixlab import plots
from mixlab.fitting import Fit
from mixlab.mixture import Mixture
from mixlab.runs import Observation, Observations

Report = Mapping[str, Any]


def shares(report: Report) -> Figure:
    """Each domain's loss against its own share at the proxies' last step."""
    fit, seen = Fit.from_dict(report["saved_fit"]), observations(report)
    reference = Mixture(report["mixtures"]["solved"])
    return plots.loss_against_share(fit, seen, step=fit.steps_seen[1], reference=reference)


def transfer(report: Report) -> Figure:
    """How domains help and cost each other at the solved mixture."""
    fit = Fit.from_dict(report["saved_fit"])
    return plots.transfer(fit, Mixture(report["mixtures"]["solved"]), step=fit.steps_seen[1])


def observations(report: Report) -> Observations:
    """What the proxy runs measured."""
    return Observations.of(
        [
            Observation(
                row["run"], Mixture(row["mixture"]), row["step"], row["tokens"], row["losses_nats"]
            )
            for row in report["observations"]
        ]
    )


FIGURES = {
    "overview": plots.overview,
    "shares": shares,
    "transfer": transfer,
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
    domains = report["long_run"]["domains"].values()
    inside = sum(one["low95"] <= one["measured_nats"] <= one["high95"] for one in domains)
    return (
        f"{first} The laws predicted the loss of a {steps:,}-step run on the solved mixture "
        f"within {error:.2f} % before it ran; {inside} of {len(domains)} domains' losses lay in "
        "their 95 % intervals."
    )


def times_noise(gain: float, noise: float | None) -> str:
    """A gain in units of the difference that the seed alone makes."""
    return f"{abs(gain) / noise:.1f} times the seed noise" if noise else "seed noise not measured"


def law_text(report: Report) -> str:
    """Which laws there are, in words, and what the table's columns mean."""
    laws = Counter(one["law"] for one in report["fit"]["domains"].values())
    named = ", ".join(f"{name} ({count})" for name, count in laws.most_common())
    chosen = (
        "each domain by the law that predicts left-out mixtures best, the simplest of those that do"
        if report["fit"]["law"] == "auto" else "all domains by one law"
    )  # fmt: skip
    return (
        f"Losses are fitted on {len(report['observations'])} observations of "
        f"{len(report['proxy_runs'])} proxy runs, {chosen}: {named}. The held-out error is the "
        "mean relative error on mixtures left out of the fit; the seed noise is the standard "
        "deviation between runs that differ in their seed alone."
    )
