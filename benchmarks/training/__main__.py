"""Every speed of training: `make bench-train`, or python -m benchmarks.training [--peers DIR].

On two CPU cores about ten minutes; where there is a CUDA device its rows come too. Peers live
in virtual environments below `--peers`, made there the first time (torch among them); with
`--no-peers` there are none. Writes benchmarks/results/training.md, or `--output`.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import torch

from benchmarks.training import counting, solo, stacking, starting, writing
from benchmarks.training.environments import pythons
from benchmarks.training.work import Work
from mixlab.training.placement import chosen_device, deterministic

RESULTS = Path(__file__).parents[1] / "results"
NO_GPU = """## GPU

No GPU was there. On a machine with one the same command adds: TinyLlama's 1.1B shape in
bfloat16 with its MFU, beside the peers; proxies of RegMix's 1M shape stacked against one after
another; pairs counted on the device against one CPU core."""


def main() -> None:
    """Measure, print and write."""
    asked = _arguments()
    began = perf_counter()
    found: list[str] = []
    for section in _sections({} if asked.no_peers else pythons(asked.peers), asked.rounds):
        found.append(section)
        sys.stdout.write(section + "\n\n")
        sys.stdout.flush()
    text = writing.document(found, command="make bench-train", seconds=perf_counter() - began)
    asked.output.write_text(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mixlab" / "peers"
    parser.add_argument("--peers", type=Path, default=folder, help="where their environments are")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--rounds", type=int, default=solo.ROUNDS)
    parser.add_argument("--output", type=Path, default=RESULTS / "training.md")
    return parser.parse_args()


def _sections(found: Mapping[str, str], rounds: int) -> Iterator[str]:
    both = solo.contenders(found)
    yield from _solo(solo.SMALL, both, rounds)
    yield from _solo(solo.MEDIUM, both, rounds)
    # Eager bfloat16 is slower with everyone, and half of the time is saved.
    compiled = solo.contenders(found, ("compiled",))
    yield from _solo(replace(solo.SMALL, precision="bfloat16"), compiled, rounds)
    yield writing.beginning(starting.RECIPE, starting.measured(starting.RECIPE))
    device = chosen_device()
    if device.type == "cuda":
        yield from _solo(solo.LARGE, compiled, rounds)
    else:
        yield NO_GPU
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "one CPU thread"
    with deterministic(device, 1):
        yield writing.stacked(
            stacking.markdown(stacking.measure(device, compiled=device.type == "cuda")), name
        )
        yield writing.counted(counting.measure(device), name)


def _solo(work: Work, among: list[solo.Contender], rounds: int) -> Iterator[str]:
    rows = solo.measure(work, among, rounds=rounds)
    if any(row.contender.name == solo.OURS for row in rows):
        yield writing.solo(work, rows)


if __name__ == "__main__":
    main()
