"""The work that every contender does, and the gate that lets it do so many updates at a time.

One update: a batch of sequences from one stream of tokens, forward, cross entropy, backward,
gradients clipped to norm 1, AdamW. A contender lives in a process of its own, compiles once,
and then waits; the benchmark lets one after another do a short burst, in rounds, so that a
busy machine slows all of them alike.

Needs NumPy and torch alone, because peers live in environments without mixlab.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from time import perf_counter, process_time

import numpy as np
import torch

LEARNING_RATE, WEIGHT_DECAY, BETAS, CLIP = 1e-3, 0.1, (0.9, 0.95), 1.0
STREAM_TOKENS = 1 << 20


@dataclass(frozen=True)
class Work:
    """A decoder's shape, a batch, and where it runs."""

    name: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    ffn_width: int
    vocabulary: int
    context: int
    sequences: int  # of an update
    at_once: int  # sequences of a peer's micro-batch; mixlab chooses its own
    threads: int = 2
    precision: str = "float32"  # or "bfloat16", of matrix products
    device: str = "cpu"

    @property
    def tokens(self) -> int:
        """Tokens of an update."""
        return self.sequences * self.context

    def to_json(self) -> str:
        """One line that `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> "Work":
        """What `to_json` wrote."""
        return cls(**json.loads(line))


def stream(work: Work) -> np.ndarray:
    """Token ids, shape (token,), the same for every contender."""
    # Zipf-like, as text is, so that rows of the embedding are hit as unevenly.
    chance = np.random.default_rng(0).random(STREAM_TOKENS)
    return (work.vocabulary**chance).astype(np.uint32) % work.vocabulary


def batches(work: Work) -> Iterator[torch.Tensor]:
    """Batches without end, int64 (sequence, context + 1), on the work's device."""
    tokens = stream(work)
    chance = np.random.default_rng(1)
    length = work.context + 1
    while True:
        starts = chance.integers(len(tokens) - length, size=work.sequences)
        rows = tokens[starts[:, None] + np.arange(length)].astype(np.int64)
        yield torch.from_numpy(rows).to(work.device)


class Gate:
    """Called after every update; True where the process shall end.

    The first call says that the contender is ready. Then each line on standard input is a
    number of updates, answered by the seconds that they took.
    """

    def __init__(self, device: str, **facts: str | int) -> None:
        self.device, self.facts = device, facts
        self.left = -1  # updates of this burst to come; -1 before the first
        self.began, self.cpu = perf_counter(), process_time()

    def __call__(self) -> bool:
        """Whether to end; waits for the next burst where this one is over."""
        self.left -= 1
        if self.left > 0:
            return False
        if self.device == "cuda":
            torch.cuda.synchronize()
        took = {"seconds": perf_counter() - self.began, "cpu_seconds": process_time() - self.cpu}
        print(json.dumps(took | self.facts), flush=True)  # noqa: T201
        asked = sys.stdin.readline()
        if not asked.strip():
            return True
        self.left = int(asked)
        self.began, self.cpu = perf_counter(), process_time()
        return False
