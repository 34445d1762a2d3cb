"""Where the best learning rate lies at each width, with maximal update and without.

    python -m benchmarks.training.transfer

Widths from 32 to 256, all else equal (two layers, heads of 16, FFN 2.75 widths), each trained
for 150 updates at rates that double. With the rule the best rate should stand still; without
it, fall with the width. The best rate is the vertex of the parabola through the lowest loss
and its neighbours, in the logarithm of the rate. Text: the sources of Python's standard
library, so that nothing is fetched. Writes benchmarks/results/transfer.md and .png.
Limits: one seed, short runs; depth and batch stay as they are.
"""

import argparse
import math
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from time import process_time

import numpy as np
import torch
from matplotlib.axes import Axes

from benchmarks.laws.writing import machine
from mixlab.corpora.shards import TokenisedCorpus, write_corpus
from mixlab.corpora.tokenizer import END_OF_TEXT, train_tokenizer
from mixlab.errors import Diverged
from mixlab.mixture import Mixture
from mixlab.plots.style import INK, SERIES, dress, figure, save
from mixlab.recipes import Architecture, Recipe
from mixlab.training import train

RESULTS = Path(__file__).parents[1] / "results"
WIDTHS = (32, 64, 128, 256)
RATES = tuple(1e-3 * 2**power for power in range(6))
BASE_WIDTH = 64
HEAD_WIDTH, LAYERS, CONTEXT, SEQUENCES, STEPS = 16, 2, 64, 8, 150
VOCABULARY, TEXT_BYTES = 512, 4_000_000
HELD_OUT_EVERY = 20  # documents
NOT_TEXT = {"site-packages", "test", "tests", "idlelib", "lib2to3"}
RULES = {"one rate for all": None, "maximal update": BASE_WIDTH}

# Loss in nats per token by rule, width and rate; a run that diverged has infinity.
Losses = dict[str, dict[int, dict[float, float]]]

HEAD = """Loss in nats per token after {steps} updates of {tokens:,} tokens: two layers, heads of
16, {vocabulary} tokens of vocabulary, the sources of Python's standard library, constant rate
after {warmup} updates of warm-up, one seed. The rate is the recipe's, before any group's scale;
at width {base} the two rules are one. "Best" is the vertex of a parabola through the lowest loss
and its neighbours. "Loss at the rate that is best at {base}" is what transferring the rate costs.
"""


def main() -> None:
    """Run all widths and rates; write the table and the picture."""
    parser = argparse.ArgumentParser(prog="benchmarks.training.transfer", description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--steps", type=int, default=STEPS)
    asked = parser.parse_args()
    began = process_time()
    with tempfile.TemporaryDirectory() as folder:
        found = sweep(standard_library(Path(folder)), asked.steps)
    lines = [
        *table(found, asked.steps),
        "",
        f"{machine()}, torch {torch.__version__}; {process_time() - began:.0f} s of one core.",
    ]
    asked.output.mkdir(parents=True, exist_ok=True)
    (asked.output / "transfer.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw(found, asked.output / "transfer.png")
    sys.stdout.write("\n".join(lines) + "\n")


def standard_library(folder: Path) -> TokenisedCorpus:
    """The first TEXT_BYTES of the standard library's sources, one document a file."""
    texts = list(_texts())
    tokenizer = train_tokenizer({"python": texts}, vocabulary=VOCABULARY)
    documents = [np.array(one.ids) for one in tokenizer.encode_batch(texts)]
    splits = {
        "train": [one for number, one in enumerate(documents) if number % HELD_OUT_EVERY],
        "validation": documents[::HELD_OUT_EVERY],
    }
    end = int(tokenizer.token_to_id(END_OF_TEXT))
    return write_corpus(folder, {"python": splits}, vocabulary=VOCABULARY, end_of_text_id=end)


def _texts() -> Iterator[str]:
    root, taken = Path(sysconfig.get_paths()["stdlib"]), 0
    for file in sorted(root.rglob("*.py")):
        if taken < TEXT_BYTES and not NOT_TEXT & set(file.parts):
            text = file.read_text(encoding="utf-8", errors="replace")
            taken += len(text)
            yield text


def sweep(corpus: TokenisedCorpus, steps: int) -> Losses:
    """The loss of every rule, width and rate."""
    found: Losses = {rule: {} for rule in RULES}
    for width in WIDTHS:
        for rule, base in RULES.items():
            # At the base width both rules are the same run.
            known = found["one rate for all"].get(width) if width == base else None
            found[rule][width] = known or {
                rate: _loss(corpus, made(width, rate, base, steps)) for rate in RATES
            }
            sys.stderr.write(f"{rule}, width {width}: {found[rule][width]}\n")
    return found


def made(width: int, rate: float, base: int | None, steps: int) -> Recipe:
    """The recipe of one run."""
    heads = width // HEAD_WIDTH
    shape = Architecture(
        layers=LAYERS, width=width, heads=heads, kv_heads=heads // 2, ffn_width=width * 11 // 4,
        vocabulary=VOCABULARY, context=CONTEXT, tied_head=False,
    )  # fmt: skip
    whole = Recipe(
        name=f"transfer_{width}", architecture=shape, steps=steps, batch_sequences=SEQUENCES,
        learning_rate=rate, warmup_steps=steps // 10, evaluation_steps=(steps,),
        evaluation_tokens=16_384, compiled=False,
    )  # fmt: skip
    return replace(whole, base_width=base)


def _loss(corpus: TokenisedCorpus, recipe: Recipe) -> float:
    try:
        result = train(recipe, corpus, Mixture({"python": 1.0}), seed=0)
    except Diverged:
        return math.inf
    return float(result.observations[-1].losses_nats["python"])


def best(losses: Mapping[float, float]) -> float:
    """The rate of least loss: a parabola's vertex, or the end of the rates where it lies there."""
    rates = sorted(losses)
    at = min(range(len(rates)), key=lambda index: losses[rates[index]])
    if at in (0, len(rates) - 1):
        return rates[at]
    low, mid, high = (losses[rates[index]] for index in (at - 1, at, at + 1))
    if not math.isfinite(low + high):
        return rates[at]
    shift = (low - high) / (2 * (low - 2 * mid + high))
    return float(rates[at] * (rates[at + 1] / rates[at]) ** shift)


def table(found: Losses, steps: int) -> list[str]:
    """The figures as Markdown."""
    head = HEAD.format(
        steps=steps, tokens=SEQUENCES * CONTEXT, vocabulary=VOCABULARY, warmup=steps // 10,
        base=BASE_WIDTH,
    )  # fmt: skip
    columns = ["rule", "width", *(f"{rate:g}" for rate in RATES), "best", "least loss",
               f"loss at the rate that is best at {BASE_WIDTH}"]  # fmt: skip
    lines = ["# Does the learning rate transfer over widths?", "", head]
    lines += ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for rule, by_width in found.items():
        tuned = min(by_width[BASE_WIDTH], key=by_width[BASE_WIDTH].__getitem__)
        for width, losses in by_width.items():
            cells = [rule, str(width), *(f"{loss:.3f}" for loss in losses.values()),
                     f"{best(losses):.2g}", f"{min(losses.values()):.3f}",
                     f"{losses[tuned]:.3f}"]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    for rule, by_width in found.items():
        rates = [best(losses) for losses in by_width.values()]
        moved = max(rates) / min(rates)
        lines.append(f"* {rule}: the best rate moves by a factor of {moved:.1f} over the widths.")
    return lines


def draw(found: Losses, path: Path) -> None:
    """Loss against rate, a curve a width, a panel a rule."""
    drawing = figure(9.0, 3.8)
    panels = drawing.subplots(1, len(found), sharey=True)
    for axis, (rule, by_width) in zip(panels, found.items(), strict=True):
        _panel(axis, by_width)
        dress(axis, rule, "learning rate of the recipe")
    panels[0].set_ylabel("nats per token", fontsize=9, color=INK)
    panels[0].legend(fontsize=8.5, frameon=False, title="width", title_fontsize=8.5)
    save(drawing, path)


def _panel(axis: Axes, by_width: Mapping[int, Mapping[float, float]]) -> None:
    for colour, (width, losses) in zip(SERIES, by_width.items(), strict=False):
        axis.plot(list(losses), list(losses.values()), "o-", color=colour, ms=4, label=str(width))
        axis.axvline(best(losses), color=colour, lw=1, ls=":")
    axis.set_xscale("log", base=2)
    axis.set_xticks(RATES, [f"{rate:g}" for rate in RATES])


if __name__ == "__main__":
    main()
