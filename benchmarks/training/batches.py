"""Tokens per second of reading batches from memory-mapped shards, on one core.

python -m benchmarks.training.batches [GIGABYTES]

Seven domains of uint16 tokens in shards of 8M tokens, 1 GB together unless another size is
given; batches of a schedule with a ramp, so that the costlier way of sharing out is measured.
The files were just written, so they lie in the page cache if memory allows: this is the speed
of finding and copying tokens, not of a disk.
"""

import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np

from mixlab.corpora.sampling import Sampler
from mixlab.corpora.shards import DomainEntry, TokenisedCorpus, write_manifest, write_shard
from mixlab.mixture import Mixture
from mixlab.schedules import MixtureSchedule, Stage

VOCABULARY = 32_000
SHARD_TOKENS = 8_000_000
DOCUMENT_TOKENS = 600
DOMAINS = tuple(f"domain-{i}" for i in range(7))
SHAPES = ((1024, 2048), (512, 128), (16, 128))  # tinyllama_1b's, and two of proxies
TARGET = 5e6
STEPS = 20


def main() -> None:
    """Write a corpus, read it, and print a table."""
    gigabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    with TemporaryDirectory() as folder:
        corpus = written(Path(folder), int(gigabytes * 5e8))
        head = f"{'sequences':>9} {'context':>8} {'mixture':>9} {'ms a batch':>11} {'tokens/s':>12}"
        sys.stdout.write(head + "\n")
        for sequences, context in SHAPES:
            for kind, schedule in schedules().items():
                seconds = batch_seconds(corpus, schedule, sequences, context)
                speed = sequences * context / seconds
                sys.stdout.write(
                    f"{sequences:>9} {context:>8} {kind:>9} {seconds * 1e3:>11.2f} "
                    f"{speed:>12,.0f}\n"
                )
        sys.stdout.write(f"aim: {TARGET:,.0f} tokens/s for the first shape\n")


def written(folder: Path, tokens: int) -> TokenisedCorpus:
    """A corpus of about so many tokens."""
    rng = np.random.default_rng(0)
    shards = max(1, tokens // len(DOMAINS) // SHARD_TOKENS)
    starts = np.arange(0, SHARD_TOKENS, DOCUMENT_TOKENS)
    entries = []
    for number, name in enumerate(DOMAINS):
        made = tuple(
            write_shard(
                folder,
                f"d{number:03d}/train-{index:05d}",
                rng.integers(0, VOCABULARY, SHARD_TOKENS, dtype=np.uint16),
                starts,
            )
            for index in range(shards)
        )
        entries.append(DomainEntry(name, {}, made, ()))
    return write_manifest(folder, entries, vocabulary=VOCABULARY, end_of_text_id=0, fingerprint="")


def schedules() -> dict[str, MixtureSchedule]:
    """One mixture, and a ramp that lasts for the whole run."""
    even = Mixture.uniform(DOMAINS)
    steep = Mixture.normalised({name: 2.0**i for i, name in enumerate(DOMAINS)})
    ramp = MixtureSchedule((Stage(even, 1), Stage(steep, None, 6 * 10**9)))
    return {"constant": MixtureSchedule.of(even), "ramp": ramp}


def batch_seconds(
    corpus: TokenisedCorpus, schedule: MixtureSchedule, sequences: int, context: int
) -> float:
    """Median seconds of a batch, at steps all over the run."""
    streams = {name: corpus.stream(name, "train") for name in corpus.domains}
    sampler = Sampler(streams, schedule, context=context, batch_sequences=sequences, seed=0)
    seconds = []
    for step in range(0, STEPS * 37, 37):
        began = perf_counter()
        sampler.batch(step)
        seconds.append(perf_counter() - began)
    return median(seconds)


if __name__ == "__main__":
    main()
