"""Beginnings: runs that take their first weights from a file, and go on with a stream of tokens.

A grown model (mixlab/growing) and an heir begin so: the weights are another model's, AdamW's state
is fresh, and rates and updates count from 0. The data stream goes on: the run's first sequence is
the one after those that runs before it have read, by the same mixture schedule and seed, so that
nothing is read twice before a domain's next epoch begins. Position counts in tokens, since sizes of
batches may differ: the script of arXiv 2405.15319 counts micro-batches, and reads 7.9B of its
10.5B tokens again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixlab.corpora.files import file_sha256
from mixlab.errors import InvalidRecipe
from mixlab.recipes import Recipe
from mixlab.training.parallel import World
from mixlab.training.weights import check_weights


@dataclass(frozen=True)
class Beginning:
    """What a run starts from. Raises InvalidRecipe for tokens below 0."""

    weights: Path  # a `weights.safetensors` of the run's own shape
    tokens: int = 0  # of the run's stream, read by runs before it; whole sequences

    def __post_init__(self) -> None:
        if isinstance(self.tokens, bool) or not isinstance(self.tokens, int) or self.tokens < 0:
            raise InvalidRecipe(
                f"A run begins after a whole number of tokens, 0 or more, not {self.tokens!r}."
            )


def check_alone(start: object, beginning: Beginning | None) -> None:
    """Raise InvalidRecipe where a run is to be a branch and to begin with given weights too."""
    if start is not None and beginning is not None:
        raise InvalidRecipe(
            "A run is a branch of another (start), or begins with given weights (beginning); "
            "give one of them."
        )


def begun(beginning: Beginning | None, recipe: Recipe, world: World) -> dict[str, Any] | None:
    """What of a beginning belongs to a run's identity: sha256 of its weights, and its tokens.

    None without one. Raises, on every rank, MissingFile, TruncatedFile for weights that can't be
    read, and InvalidRecipe for those of another shape.
    """
    if beginning is None:
        return None
    file = beginning.weights
    # On every rank, since each reads the file; hashed once.
    world.together(lambda: check_weights(file, recipe.architecture))
    digest = world.together(lambda: file_sha256(file) if world.main else "")[0]
    return {"weights": digest, "tokens": beginning.tokens}
