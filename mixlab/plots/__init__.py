"""Every picture, in one look: of a demo's report, of fits, of mixtures, of evidence."""

from mixlab.plots.evidence import coverage, predicted_against_measured, regret_against_runs
from mixlab.plots.laws import (
    heatmap,
    loss_against_share,
    loss_against_tokens,
    transfer,
    transfer_percent,
)
from mixlab.plots.report import overview, predictions
from mixlab.plots.simplex import mixtures, ternary
from mixlab.plots.style import as_svg, check_picture, save
from mixlab.plots.vocabulary import vocabulary_coverage

__all__ = [
    "as_svg",
    "check_picture",
    "coverage",
    "heatmap",
    "loss_against_share",
    "loss_against_tokens",
    "mixtures",
    "overview",
    "predicted_against_measured",
    "predictions",
    "regret_against_runs",
    "save",
    "ternary",
    "transfer",
    "transfer_percent",
    "vocabulary_coverage",
]
