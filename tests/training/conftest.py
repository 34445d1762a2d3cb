"""A small corpus of synthetic text and a recipe that trains on it in a second."""

import os
from pathlib import Path

import numpy as np
import pytest

from mixlab.corpora.shards import TokenisedCorpus, write_corpus
from mixlab.mixture import Mixture
from mixlab.recipes import Architecture, Recipe

# Processes that tests start import from `tests` too.
os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])

VOCABULARY = 64
END = 0


def write_small_corpus(folder: Path) -> TokenisedCorpus:
    """Two domains: counting up, which can be learned, and noise, which can't."""
    chance = np.random.default_rng(0)

    def counting(documents: int) -> list[np.ndarray]:
        starts = chance.integers(1, VOCABULARY, size=documents)
        return [(start + np.arange(60)) % (VOCABULARY - 1) + 1 for start in starts]

    def noise(documents: int) -> list[np.ndarray]:
        return list(chance.integers(1, VOCABULARY, size=(documents, 60)))

    documents = {
        "counting": {"train": counting(200), "validation": counting(20)},
        "noise": {"train": noise(200), "validation": noise(20)},
    }
    return write_corpus(
        folder, documents, vocabulary=VOCABULARY, end_of_text_id=END, shard_documents=50
    )


def small_recipe(steps: int = 40) -> Recipe:
    """12 thousand parameters, 256 tokens a step."""
    return Recipe(
        name="small",
        architecture=Architecture(
            layers=2, width=16, heads=4, kv_heads=2, ffn_width=32,
            vocabulary=VOCABULARY, context=32, tied_head=True,
        ),
        steps=steps,
        batch_sequences=8,
        learning_rate=1e-2,
        warmup_steps=min(5, steps),
        evaluation_steps=tuple(sorted({steps // 2, steps})),
        evaluation_tokens=512,
        compiled=False,
    )  # fmt: skip


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> TokenisedCorpus:
    return write_small_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def mixture() -> Mixture:
    return Mixture({"counting": 0.7, "noise": 0.3})
