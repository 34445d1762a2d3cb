"""How far a service reaches: measured speeds of this machine, and arithmetic from them.

    python -m benchmarks.capacity [--output benchmarks/results/capacity.md]

Measured here, in CPU seconds, so that other work on the machine doesn't count: tokenising real text
(Python's own library), counting pairs, the ledger's bytes. Not measured here, and options
therefore: the arithmetic that proxies get out of a GPU, and all prices.

One job tokenises one corpus. Its encoding runs on all cores of a host, its reading, hashing and
writing on one; so that one job's speed has a ceiling however many cores there are:

    hours = tokens x max(one thread's seconds, all seconds / cores) / 3600
"""

import argparse
import resource
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.entropy_counts import synthetic_text
from benchmarks.laws.writing import machine
from mixlab.corpora.shards import TokenisedCorpus
from mixlab.corpora.sources import DomainSource
from mixlab.corpora.tokenising import TOKENIZER_FILE, tokenise
from mixlab.entropy.counts import PairCounts
from mixlab.ledger import Ledger
from mixlab.ledger.records import JobKind, Queue, RunRole
from mixlab.recipes import recipe

VOCABULARY = 32_768
COUNTED_TOKENS = 20_000_000
COUNTED_TIMES = 2  # each block, for the total and for the jackknife
LEDGER_RUNS, OBSERVATIONS, DOMAINS = 200, 20, 20
CASES = (
    (10e9, 64, "proxy_1m"),
    (100e9, 256, "proxy_5m"),
    (1e12, 1000, "proxy_1m"),
    (1e12, 1000, "proxy_15m"),
    (1e12, 1000, "proxy_60m"),
)


@dataclass(frozen=True)
class Speeds:
    """What was measured; seconds are of one core."""

    bytes_per_token: float  # of text
    shard_bytes_per_token: float
    encode_seconds: float  # a token, all threads together
    serial_seconds: float  # a token, the one thread that reads, hashes and writes
    count_seconds: float  # a token, counted once
    ledger_bytes: float  # a proxy run, with its job and observations


def main() -> None:
    """Measure, reckon, and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cores", type=int, default=64, help="of the host that tokenises")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--tflops", type=float, default=989.0, help="of a GPU, its data sheet's")
    parser.add_argument("--mfu", type=float, default=0.1, help="share of that which proxies get")
    parser.add_argument("--core-hour", type=float, default=0.04, help="dollars")
    parser.add_argument("--gpu-hour", type=float, default=2.5, help="dollars")
    parser.add_argument("--gb-month", type=float, default=0.08, help="dollars")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    began = time.perf_counter()
    text = "\n".join(document(measure(), options))
    text += f"\n\n{machine()}; {time.perf_counter() - began:.0f} s.\n"
    if options.output:
        options.output.write_text(text)
    print(text)  # noqa: T201


def measure() -> Speeds:
    """All speeds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return Speeds(**_tokenising(folder), **_counting(), **_ledger(folder))


def _tokenising(folder: Path) -> dict[str, float]:
    text = folder / "text"
    text.mkdir()
    library = Path(sysconfig.get_paths()["stdlib"])
    files = [path for path in library.rglob("*.py") if "site-packages" not in path.parts]
    for number, path in enumerate(sorted(files)):
        (text / f"{number:05}.txt").write_bytes(path.read_bytes())
    size = sum(path.stat().st_size for path in text.iterdir())
    source = [DomainSource("python", (str(text),))]
    first = folder / "with-training"
    tokenise(source, first, vocabulary=VOCABULARY)
    threads, serial = _cpu_seconds(), time.thread_time()
    made = tokenise(source, folder / "again", tokenizer_file=first / TOKENIZER_FILE)
    threads, serial = _cpu_seconds() - threads, time.thread_time() - serial
    tokens = sum(each["train_tokens"] + each["validation_tokens"] for each in _counts(made))
    shards = sum(path.stat().st_size for path in (folder / "again").rglob("*.npy"))
    return {
        "bytes_per_token": size / tokens,
        "shard_bytes_per_token": shards / tokens,
        "encode_seconds": threads / tokens,
        "serial_seconds": serial / tokens,
    }


def _counts(corpus: TokenisedCorpus) -> Iterator[dict[str, int]]:
    yield from corpus.summary().values()


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _counting() -> dict[str, float]:
    tokens = synthetic_text(COUNTED_TOKENS, VOCABULARY)
    before = time.process_time()
    PairCounts.from_shard(tokens, [0])
    return {"count_seconds": (time.process_time() - before) / COUNTED_TOKENS}


def _ledger(folder: Path) -> dict[str, float]:
    file = folder / "ledger.sqlite"
    ledger = Ledger.open(f"sqlite:///{file}")
    corpus = ledger.add_corpus("c", {})
    empty = file.stat().st_size
    shares = {f"domain_{n}": 1 / DOMAINS for n in range(DOMAINS)}
    losses = dict.fromkeys(shares, 3.123456789)
    for n in range(LEDGER_RUNS):
        job = ledger.submit(JobKind.TRAIN, {"mixture": shares}, queue=Queue.GPU)
        ledger.claim(job.id, "host:1", 30)
        made = recipe("proxy_1m").to_dict()
        run = ledger.add_run(job.id, corpus.id, RunRole.PROXY, shares, made, n, "design")
        for step in range(OBSERVATIONS):
            seen = {"step": step, "tokens": step, "losses_nats": losses}
            ledger.record_observation(run.id, seen)
        ledger.succeed(job.id, 1, {})
    ledger.close()
    return {"ledger_bytes": (file.stat().st_size - empty) / LEDGER_RUNS}


def document(speeds: Speeds, options: argparse.Namespace) -> Iterator[str]:
    """The page."""
    yield "# Capacity by arithmetic\n"
    yield f"Made {datetime.now(UTC):%Y-%m-%d} by `python -m benchmarks.capacity`.\n"
    yield "## Measured here, per CPU core\n"
    yield "| what | figure |\n|---|---|"
    yield f"| text | {speeds.bytes_per_token:.2f} bytes a token, vocabulary {VOCABULARY:,} |"
    yield f"| shards | {speeds.shard_bytes_per_token:.2f} bytes a token |"
    yield f"| tokenising, all threads | {1 / speeds.encode_seconds:,.0f} tokens a core second |"
    serial = 1 / speeds.serial_seconds
    yield f"| its one thread that reads, hashes and writes | {serial:,.0f} tokens/s |"
    yield f"| counting pairs, once | {1 / speeds.count_seconds:,.0f} tokens/s |"
    yield (
        f"| the ledger | {speeds.ledger_bytes / 1024:.1f} KiB a proxy run of {OBSERVATIONS} "
        f"observations of {DOMAINS} domains |\n"
    )
    yield "## Assumed\n"
    yield (
        f"A host of {options.cores} cores for text, {options.gpus} GPUs of {options.tflops:g} "
        f"TFLOP/s of which proxies get {100 * options.mfu:g} % (`--mfu`; measure yours with "
        f"`mixlab proxies plan`); ${options.core_hour:g} a core hour, ${options.gpu_hour:g} a GPU "
        f"hour, ${options.gb_month:g} a GB month of disk.\n"
    )
    yield "## What it comes to\n"
    yield (
        "| corpus | text | shards | tokenise | count | proxies | of | proxy FLOPs | train | "
        "ledger | longest stage |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )
    yield from (_row(speeds, options, *case) for case in CASES)


def _row(speeds: Speeds, options: argparse.Namespace, tokens: float, runs: int, name: str) -> str:
    cores = options.cores
    made = recipe(name)
    flops = runs * made.tokens * made.architecture.flops_per_token()
    hours = {
        "tokenise": tokens * max(speeds.serial_seconds, speeds.encode_seconds / cores) / 3600,
        "count": COUNTED_TIMES * tokens * speeds.count_seconds / 3600,
        "train": flops / (options.gpus * options.tflops * 1e12 * options.mfu) / 3600,
    }
    dollars = {
        "tokenise": hours["tokenise"] * cores * options.core_hour,
        "count": hours["count"] * options.core_hour,
        "train": hours["train"] * options.gpus * options.gpu_hour,
    }
    shards = tokens * speeds.shard_bytes_per_token
    kept = f"{shards / 1e9:,.0f} GB, ${shards / 1e9 * options.gb_month:,.0f} a month"
    told = {stage: f"{hours[stage]:,.1f} h, ${dollars[stage]:,.0f}" for stage in hours}
    text = tokens * speeds.bytes_per_token / 1e12
    return (
        f"| {tokens / 1e9:,.0f}B tokens | {text:,.2f} TB | {kept} | "
        f"{told['tokenise']} | {told['count']} | {runs} | {name} | {flops:.1e} | {told['train']} | "
        f"{runs * speeds.ledger_bytes / 1e6:,.0f} MB | {max(hours, key=lambda s: hours[s])} |"
    )


if __name__ == "__main__":
    main()
