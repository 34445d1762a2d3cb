"""Fitting: a law and observations in, a Fit with status and uncertainty out."""

from mixlab.fitting.answer import Fit
from mixlab.fitting.estimation import fit
from mixlab.fitting.intervals import HeldOut
from mixlab.fitting.search import Robust
from mixlab.fitting.surface import Surface
from mixlab.fitting.target import FitStatus, TargetFit

__all__ = ["Fit", "FitStatus", "HeldOut", "Robust", "Surface", "TargetFit", "fit"]
