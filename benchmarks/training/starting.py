"""How long a run takes to begin: `python -m benchmarks.training.starting [RECIPE]`.

A fresh process each time: seconds until `mixlab.training` is imported, and from there until
the first weight update is done (corpus opened, decoder made, optimiser made, batch read), with
the recipe's blocks run as they are written. CPU seconds beside them, which other work on the
machine doesn't change. The best of `ROUNDS`, of a million synthetic tokens.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from mixlab.corpora.shards import write_corpus

ROUNDS = 3
RECIPE = "proxy_1m"
VOCABULARY, DOCUMENTS, LENGTH = 2048, 1000, 1000

BEGIN = """
import json, sys, time
began, cpu = time.perf_counter(), time.process_time()
from mixlab.training import train
imported, imported_cpu = time.perf_counter(), time.process_time()
from dataclasses import replace
from mixlab.corpora.shards import TokenisedCorpus
from mixlab.mixture import Mixture
from mixlab.recipes import recipe

class Begun(Exception):
    pass

def stop():
    now = time.perf_counter(), time.process_time()
    print(json.dumps({
        "import": imported - began, "import, CPU": imported_cpu - cpu,
        "first step": now[0] - imported, "first step, CPU": now[1] - imported_cpu,
    }))
    raise Begun

wanted = replace(recipe(sys.argv[2]), compiled=False)
try:
    train(wanted, TokenisedCorpus.open(sys.argv[1]), Mixture({"a": 0.5, "b": 0.5}), seed=0,
          threads=1, stop=stop)
except Begun:
    pass
"""


def write_tokens(folder: Path) -> None:
    """Two domains of half a million tokens each."""
    chance = np.random.default_rng(0)
    documents = {
        name: {
            "train": list(chance.integers(1, VOCABULARY, size=(DOCUMENTS // 2, LENGTH))),
            "validation": list(chance.integers(1, VOCABULARY, size=(20, LENGTH))),
        }
        for name in ("a", "b")
    }
    write_corpus(folder, documents, vocabulary=VOCABULARY, end_of_text_id=0)


def measured(recipe: str) -> dict[str, float]:
    """The least seconds of each part."""
    with tempfile.TemporaryDirectory() as folder:
        write_tokens(Path(folder))
        rounds = [
            json.loads(
                subprocess.run(
                    [sys.executable, "-c", BEGIN, folder, recipe],
                    check=True, capture_output=True, text=True,
                ).stdout
            )
            for _ in range(ROUNDS)
        ]  # fmt: skip
    return {name: min(found[name] for found in rounds) for name in rounds[0]}


def main() -> None:
    """Measure, and print one line for each part."""
    recipe = sys.argv[1] if len(sys.argv) > 1 else RECIPE
    for name, seconds in measured(recipe).items():
        sys.stdout.write(f"{recipe}: {name} {seconds:.2f} s\n")


if __name__ == "__main__":
    main()
