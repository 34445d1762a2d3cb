"""Many runs of one recipe as one program: mixtures, seeds and learning rates differ."""

from mixlab.training.stacked.loop import train_stacked
from mixlab.training.stacked.records import GroupProgress, Outcome, StackedRun

__all__ = ["GroupProgress", "Outcome", "StackedRun", "train_stacked"]
