"""Adjacent pairs counted on a device, beside one CPU core: tokens per second, counts compared.

    python -m benchmarks.training.counting [TOKENS]

Ids of 16 bits (a vocabulary of 32,768) and of 32 (100,000), synthetic text as in
benchmarks/entropy_counts.py. Rounds alternate; medians. The device is CUDA's where there is one.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np
import torch

from benchmarks.entropy_counts import DOCUMENT_TOKENS, synthetic_text
from mixlab.entropy import on_device
from mixlab.entropy.counts import PairCounts
from mixlab.training.placement import chosen_device

VOCABULARIES = (32_768, 100_000)
TOKENS = {"cuda": 200_000_000, "cpu": 8_000_000}
CPU_TOKENS = 8_000_000  # of the one core, which takes as long per token at any length
ROUNDS = 3


@dataclass(frozen=True)
class Row:
    """What was counted how fast."""

    bits: int
    vocabulary: int
    device_tokens_per_second: float
    core_tokens_per_second: float

    @property
    def gain(self) -> float:
        """The device's rate over one core's."""
        return self.device_tokens_per_second / self.core_tokens_per_second


def measure(device: torch.device, tokens: int | None = None) -> Iterator[Row]:
    """A row for each kind of id. Raises SystemExit where counts differ."""
    count = tokens or TOKENS[device.type]
    for vocabulary in VOCABULARIES:
        made = synthetic_text(min(count, CPU_TOKENS), vocabulary)
        # Long texts repeat one, which sorting doesn't notice and making it would take minutes.
        text = np.resize(made, count)
        starts = np.arange(0, count, DOCUMENT_TOKENS)
        yield _row(made, text, starts, device)


def _row(made: np.ndarray, text: np.ndarray, starts: np.ndarray, device: torch.device) -> Row:
    ours, core = [], []
    some = starts[starts < len(made)]
    for number in range(ROUNDS + 1):
        began = perf_counter()
        found = on_device.count_shard(text, starts, device=device)
        between = perf_counter()
        expected = PairCounts.from_shard(made, some)
        if number:  # the first one warms up
            core.append(len(made) / (perf_counter() - between))
            ours.append(len(text) / (between - began))
    _compare(found if len(text) == len(made) else on_device.count_shard(made, some, device=device),
             expected)  # fmt: skip
    return Row(8 * text.itemsize, int(made.max()) + 1, median(ours), median(core))


def _compare(found: PairCounts, expected: PairCounts) -> None:
    same = all(
        np.array_equal(getattr(found, part), getattr(expected, part))
        for part in ("keys", "counts", "lasts")
    )
    if not same:
        raise SystemExit("The device's counts differ from the CPU's.")


def main() -> None:
    """Print a line for each kind of id."""
    device = chosen_device()
    torch.set_num_threads(1)
    for row in measure(device, int(sys.argv[1]) if len(sys.argv) > 1 else None):
        sys.stdout.write(
            f"{row.bits}-bit ids, vocabulary {row.vocabulary:,}: {device.type} "
            f"{row.device_tokens_per_second:,.0f} tokens/s, one core "
            f"{row.core_tokens_per_second:,.0f}, {row.gain:.2f}x\n"
        )


if __name__ == "__main__":
    main()
