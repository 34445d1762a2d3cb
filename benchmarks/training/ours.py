"""mixlab's own loop as a contender: `train`, whole, let go on by its `stop`.

python -m benchmarks.training.ours compiled    (a line of JSON, then numbers, on stdin)
"""

import sys

# First, as for everyone who imports `train`: it decides in which pages torch's arrays lie.
# isort: off
import mixlab.training.allocation  # noqa: F401

# isort: on
import numpy as np
import numpy.typing as npt
import torch

from benchmarks.training.work import BETAS, CLIP, LEARNING_RATE, WEIGHT_DECAY, Gate, Work, stream
from mixlab.corpora.sampling import TokenWindows
from mixlab.mixture import Mixture
from mixlab.recipes import Architecture, Precision, Recipe
from mixlab.training import train
from mixlab.training.parallel import World

STEPS = 1_000_000  # never reached
PRECISIONS: dict[str, Precision] = {"float32": "float32", "bfloat16": "bfloat16"}


class Windows:
    """A stream in memory."""

    def __init__(self, tokens: npt.NDArray[np.uint32]) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def windows(self, starts: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
        """The tokens from each start on."""
        return self.tokens[starts[:, None] + np.arange(length)].astype(np.int64)


class OneStream:
    """A corpus of one domain in memory."""

    domains = ("text",)
    fingerprint = "made up"

    def __init__(self, work: Work) -> None:
        self.vocabulary = work.vocabulary
        self._windows = Windows(stream(work))

    def stream(self, domain: str, split: str) -> TokenWindows:
        """The same tokens for training and validation; the latter is never reached."""
        return self._windows


def architecture_of(work: Work) -> Architecture:
    """The work's shape."""
    return Architecture(
        layers=work.layers, width=work.width, heads=work.heads, kv_heads=work.kv_heads,
        ffn_width=work.ffn_width, vocabulary=work.vocabulary, context=work.context,
        tied_head=False,
    )  # fmt: skip


def recipe_of(work: Work, *, compiled: bool) -> Recipe:
    """The work as a recipe without end."""
    return Recipe(
        name=work.name,
        architecture=architecture_of(work),
        steps=STEPS,
        batch_sequences=work.sequences,
        learning_rate=LEARNING_RATE,
        warmup_steps=1,
        evaluation_steps=(STEPS,),
        evaluation_tokens=work.context,
        betas=BETAS,
        weight_decay=WEIGHT_DECAY,
        gradient_clip=CLIP,
        precision=PRECISIONS[work.precision],
        compiled=compiled,
    )


def main() -> None:
    """Train until standard input ends."""
    work = Work.from_json(sys.stdin.readline())
    recipe = recipe_of(work, compiled=sys.argv[1] == "compiled")
    train(
        recipe,
        OneStream(work),
        Mixture({"text": 1.0}),
        seed=0,
        threads=work.threads,
        world=World.alone(torch.device(work.device)),
        stop=Gate(work.device, parameters=recipe.architecture.parameters),
    )


if __name__ == "__main__":
    main()
