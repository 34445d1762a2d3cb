"""Fitting: a law and observations in, a Fit with status and uncertainty out."""

from mixlab.fitting.answer import Fit, FitStatus, TargetFit
from mixlab.fitting.estimation import fit

__all__ = ["Fit", "FitStatus", "TargetFit", "fit"]
