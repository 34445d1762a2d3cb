"""Training: the only home of torch. Its public face is `train`, its progress and its result."""

from mixlab.training.branches import Branch
from mixlab.training.loop import train
from mixlab.training.records import TokenCorpus, TrainingProgress, TrainingResult

__all__ = ["Branch", "TokenCorpus", "TrainingProgress", "TrainingResult", "train"]
