"""Training: the only home of torch. Its public face is `train`, its progress and its result."""

# First, because torch reads what this sets at its first array.
import mixlab.training.allocation  # noqa: F401, I001

from mixlab.training.beginning import Beginning
from mixlab.training.branches import Branch
from mixlab.training.decayed import DecayedEnd, DecayedEnds, decayed_ends
from mixlab.training.loop import train
from mixlab.training.records import TokenCorpus, TrainingProgress, TrainingResult
from mixlab.training.trackers import Tracker

__all__ = [
    "Beginning",
    "Branch",
    "DecayedEnd",
    "DecayedEnds",
    "TokenCorpus",
    "Tracker",
    "TrainingProgress",
    "TrainingResult",
    "decayed_ends",
    "train",
]
