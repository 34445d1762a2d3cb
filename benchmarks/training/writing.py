"""The results of `make bench-train` as Markdown."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from statistics import median

import torch

from benchmarks.laws.writing import machine
from benchmarks.training import counting
from benchmarks.training.ours import architecture_of
from benchmarks.training.solo import NAMES, OURS, Row
from benchmarks.training.work import Work
from mixlab.training.metrics import MFU_FORMULA, peak_flops

HEAD = f"""Medians over rounds. In each round every contender does a burst of the same updates, one
after the other, each in a process of its own; "times ours" is its speed to that of mixlab's
fastest mode in the same round: the median, and the range of the rounds.

The work: a Llama with grouped queries and an untied head, one stream of made-up tokens with
Zipf's frequencies, AdamW (fused, for all) on every update, gradients clipped to norm 1, no
logging, nothing saved, nothing evaluated. mixlab runs its whole loop, with its guard and its
sampler. litgpt runs the step of its `pretrain.py` through Fabric, with its chunked cross entropy;
transformers runs `LlamaForCausalLM` with torch's attention in a plain step and in `Trainer`.
Peers accumulate over micro-batches (on the CPU litgpt's default of 4 sequences); mixlab chooses
its own.
Peers' versions are pinned in `benchmarks/training/peers-*.txt`; the torch is the same. nanoGPT is
left out: GPT-2's shape is other work. "To the first update" is from the process's start, imports
and compiling among it (code that earlier runs compiled lies in a cache and makes it shorter).

GFLOP/s and MFU count {MFU_FORMULA.value} FLOPs a token: N all parameters, L layers, d width,
T context; recomputing counts for nothing."""


def document(sections: Iterable[str], *, command: str, seconds: float) -> str:
    """The whole file."""
    device = ""
    if torch.cuda.is_available():
        device = f", {torch.cuda.get_device_name()}"
    made = f"Made {datetime.now(UTC):%Y-%m-%d} by `{command}` in {seconds / 60:.1f} minutes"
    head = f"# Speed of training\n\n{made} on {machine()}, torch {torch.__version__}{device}."
    return "\n\n".join([head, HEAD, *sections]) + "\n"


def solo(work: Work, rows: Sequence[Row]) -> str:
    """One shape's contenders."""
    shape = architecture_of(work)
    where = "one GPU" if work.device == "cuda" else f"{work.threads} CPU threads"
    title = f"## One run: {work.name} parameters, {work.precision}, {where}"
    words = (
        f"{shape.parameters:,} parameters: {work.layers} layers of width {work.width}, "
        f"{work.heads} heads over {work.kv_heads}, FFN {work.ffn_width}, "
        f"vocabulary {work.vocabulary:,}; "
        f"{work.sequences} sequences of {work.context} tokens an update, of peers "
        f"{work.at_once} at once, {rows[0].updates} updates "
        f"a burst, {len(rows[0].burst_seconds)} rounds."
    )
    best = _fastest([row for row in rows if row.contender.name == OURS])
    share = " | MFU" if _peak(work) else ""
    lines = [
        f"| trainer | mode | tokens/s | GFLOP/s{share} | times ours | to the first update |",
        "|---|---|---|---|---|" + ("---|" if share else "") + "---|",
        *(_line(work, row, best) for row in rows),
    ]
    return "\n\n".join([title, words, "\n".join(lines), _verdict(rows, best)])


def _line(work: Work, row: Row, best: Row) -> str:
    rate = row.tokens_per_second(work)
    flops = rate * architecture_of(work).flops_per_token(MFU_FORMULA)
    peak = _peak(work)
    share = f" {flops / peak:.1%} |" if peak else ""
    ratios = row.ratios(best)
    return (
        f"| {NAMES[row.contender.name]} | {row.contender.mode} | {rate:,.0f} | {flops / 1e9:,.1f} |"
        f"{share} {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | "
        f"{row.begin_seconds:.0f} s |"
    )


def _verdict(rows: Sequence[Row], best: Row) -> str:
    peers = [row for row in rows if row.contender.name != OURS]
    if not peers:
        return "No peer was there to compare with."
    peer = _fastest(peers)
    gain = median(best.ratios(peer))
    return (
        f"mixlab, {best.contender.mode}, does **{gain:.2f} times** the tokens per second of the "
        f"best peer, {NAMES[peer.contender.name]}, {peer.contender.mode}."
    )


def _fastest(rows: Sequence[Row]) -> Row:
    return min(rows, key=lambda row: median(row.burst_seconds))


def _peak(work: Work) -> float | None:
    if work.device != "cuda" or work.precision != "bfloat16":
        return None
    return peak_flops(torch.cuda.get_device_name())


def beginning(recipe: str, found: dict[str, float]) -> str:
    """How long a run takes to begin."""
    rows = "\n".join(f"| {what} | {seconds:.2f} s |" for what, seconds in found.items())
    return (
        f"## How long a run takes to begin\n\n`{recipe}` of a million tokens, eager, a fresh "
        f"process each time, the best of several; seconds, and CPU seconds of one thread.\n\n"
        f"| part | took |\n|---|---|\n{rows}"
    )


def stacked(lines: Iterable[str], device: str) -> str:
    """Stacks of runs against one run after another."""
    return f"## Stacked runs on {device}\n\n" + "\n".join(lines)


def counted(rows: Iterable[counting.Row], device: str) -> str:
    """Counting of pairs."""
    lines = "\n".join(
        f"| {row.bits} | {row.vocabulary:,} | {row.device_tokens_per_second:,.0f} | "
        f"{row.core_tokens_per_second:,.0f} | {row.gain:.2f} |"
        for row in rows
    )
    return (
        f"## Entropy: adjacent pairs counted by the torch path on {device}, beside one CPU core\n\n"
        "Counts are equal, which each round checks.\n\n"
        f"| bits of an id | vocabulary | {device}, tokens/s | one core, tokens/s | gain |\n"
        f"|---|---|---|---|---|\n{lines}"
    )
