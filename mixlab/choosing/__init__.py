"""Choosing a law for every target by cross-validation over whole mixtures."""

from mixlab.choosing.choice import Choice, Score, TargetChoice, choose, fit_auto

__all__ = ["Choice", "Score", "TargetChoice", "choose", "fit_auto"]
