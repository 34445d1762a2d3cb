"""Checkpoints: what a run needs to go on as if it had never stopped."""

from mixlab.training.checkpoints.keeping import Checkpoints

__all__ = ["Checkpoints"]
