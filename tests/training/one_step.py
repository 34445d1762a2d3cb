"""One update of `tinyllama_1b` by `train`, on this machine: `python -m tests.training.one_step`.

The recipe with one sequence of 32 tokens, bfloat16 moments, eager, and at its peak rate; all
else, its 1,100,048,384 parameters among it, as it is. The text counts in a circle, so what one
update teaches shows on the validation split. Prints as JSON losses, seconds and memory.
"""

import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mixlab.corpora.shards import TokenisedCorpus, write_corpus
from mixlab.mixture import Mixture
from mixlab.recipes import Recipe, tinyllama_1b
from mixlab.training import train
from mixlab.training.memory import check_memory, needed_memory
from mixlab.training.placement import peak_memory_bytes

PLACES = 32


def small_batch() -> Recipe:
    """The recipe for one small update."""
    whole = tinyllama_1b()
    return replace(
        whole,
        architecture=replace(whole.architecture, context=PLACES),
        steps=1,
        warmup_steps=0,
        schedule="constant",
        final_learning_rate=None,
        batch_sequences=1,
        evaluation_steps=(1,),
        evaluation_tokens=PLACES,
        moments="bfloat16",
        compiled=False,
    )


def counting(folder: Path, vocabulary: int) -> TokenisedCorpus:
    """One domain, whose documents count to ten again and again."""
    documents = {split: [1 + np.arange(400) % 10] for split in ("train", "validation")}
    return write_corpus(folder, {"counting": documents}, vocabulary=vocabulary, end_of_text_id=0)


def main() -> None:
    recipe, cpu = small_batch(), torch.device("cpu")
    check_memory(recipe)
    told = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        corpus = counting(Path(folder), recipe.architecture.vocabulary)
        result = train(
            recipe, corpus, Mixture({"counting": 1.0}), seed=0, progress=told.append,
            threads=os.cpu_count(),
        )  # fmt: skip
    found = {
        "parameters": recipe.architecture.parameters,
        "loss_before": told[-1].train_loss_nats,
        "loss_after": result.observations[-1].losses_nats["counting"],
        "seconds": time.monotonic() - began,
        "needed_bytes": needed_memory(recipe, sequences=1, device=cpu).peak,
        "peak_bytes": peak_memory_bytes(cpu),
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
