"""How long a checkpoint holds the loop up: `python -m benchmarks.training.saving [FOLDER]`.

A decoder of about 60M parameters with AdamW's float32 state, on the CPU: seconds until `save`
returns where a thread writes (the first time, which makes room for the copy, and later), and
where the loop waits for it; seconds until the checkpoint is there; and to verify and load it.
Medians of `ROUNDS`. FOLDER says which disk; without it, the one of temporary files.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from mixlab.recipes import Architecture
from mixlab.training.checkpoints import Checkpoints
from mixlab.training.decoder import Decoder
from mixlab.training.parallel import World

ROUNDS = 5
SHAPE = Architecture(
    layers=12, width=576, heads=9, kv_heads=3, ffn_width=1536,
    vocabulary=16_000, context=512, tied_head=False,
)  # fmt: skip


def seconds_of(action: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def measured(folder: Path) -> dict[str, float]:
    """Seconds by what they are spent on."""
    model = Decoder(SHAPE)
    model.initialise(0)
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimiser.step()
    optimiser.zero_grad()
    steps = iter(range(1, 1000))
    with Checkpoints(folder, {}, World.alone(torch.device("cpu")), keep_last=1) as kept:

        def save(*, wait: bool) -> None:
            kept.save(next(steps), model, optimiser, {}, wait=wait)

        save(wait=True)  # imports, and the disk's first files
        waiting = [seconds_of(lambda: save(wait=True)) for _ in range(ROUNDS)]
        first = seconds_of(lambda: save(wait=False))
        kept.wait()
        held, written = [], []
        for _ in range(ROUNDS):
            held.append(seconds_of(lambda: save(wait=False)))
            written.append(seconds_of(kept.wait))
        loading = [seconds_of(lambda: kept.resume(model, optimiser)) for _ in range(ROUNDS)]
    return {
        "held up, a thread writes (first)": first,
        "held up, a thread writes": median(held),
        "held up, the loop waits": median(waiting),
        "the thread's work": median(written),
        "verified and loaded": median(loading),
    }


def main() -> None:
    """Print the table."""
    within = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory(dir=within) as folder:
        found = measured(Path(folder))
    millions = SHAPE.parameters / 1e6
    sys.stdout.write(f"{millions:.1f}M parameters, {12 * millions:.0f} MB, CPU\n")
    for what, seconds in found.items():
        sys.stdout.write(f"{what:34} {seconds:6.3f} s\n")


if __name__ == "__main__":
    main()
