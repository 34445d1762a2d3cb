"""The table and the picture of what each method brings."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.laws.writing import machine
from mixlab.plots.style import INK, SERIES, dress, figure, save

Results = Sequence[Mapping[str, Any]]

HEAD = """# Methods for tiny models, in our own runs

Made {when} by `make bench-tiny` on {machine} (two processes, {minutes:.0f} minutes).

Text is `minipile-small` at the mixture {mixture}; the baseline, `fresh`, has {parameters:,}
parameters, {steps} updates of 2,048 tokens and a cosine. Measured is the loss of validation text in
bits per byte, weighted by the mixture: the mean over {seeds} seeds and their standard deviation.
Lower is better. "Against fresh" is taken seed by seed, since the runs of a seed share batches;
a difference below two or three of its deviations is noise. FLOPs are of training, by
"6 (N - input embedding) + 12 L d T"; those of rounds include scoring (a forward pass). An heir's
don't include its donor's, which has {donor} times the baseline's: it pays where the donor is there.

"Equal tokens" and "equal FLOPs" are those of `fresh`: what a method saves buys more updates, what
it costs is taken off.

* growth: factor 4 after 15 % of the tokens.
* rounds: two, the second on half of what the first read; the domains' proportions kept, or free.
* tokenizer: 4,096 tokens compressed to 2,048 ({coverage:.1%} of the tokens at the mixture stay).
* shape: about as many parameters in 3 or 16 layers instead of 8.
* inheritance: 6 layers and half the FFN from a donor of 12 layers, trained for a quarter of the
  tokens; `random` begins with random weights.
* batch: 8 times the batch and an eighth of the updates; the rate kept, or by the rule's r.

![Bits per byte of each variant](../../docs/images/tiny-models.svg)
"""


def document(results: Results, facts: Mapping[str, Any]) -> str:
    """The file as Markdown."""
    lines = [
        "| | bits per byte | against fresh | tokens | FLOPs / fresh | parameters |",
        "|---" * 6 + "|",
    ]
    found = grouped(results)
    base = found["baseline", "fresh"]
    for (comparison, variant), runs in found.items():
        bits = [run["bits_per_byte"] for run in runs]
        against = [own - run["bits_per_byte"] for own, run in zip(bits, base, strict=True)]
        lines.append(
            f"| {comparison} / {variant} | {fmean(bits):.4f}{spread(bits)} "
            f"| {fmean(against):+.4f}{spread(against)} | {runs[0]['tokens']:,} "
            f"| {runs[0]['flops'] / base[0]['flops']:.2f} | {runs[0]['parameters']:,} |"
        )
    told = {**facts, "machine": machine(), "parameters": base[0]["parameters"], "seeds": len(base)}
    donor = found.get(("inheritance", "donor"))
    ratio = donor[0]["flops"] / base[0]["flops"] if donor else float("nan")
    return HEAD.format(**told, donor=f"{ratio:.1f}") + "\n" + "\n".join(lines) + "\n"


def picture(results: Results, to: Path) -> None:
    """Bits per byte of each variant, a mark per seed, saved as the suffix says."""
    found = grouped(results)
    drawing = figure(7.0, 0.28 * len(found) + 0.9)
    axis = drawing.subplots()
    names = [f"{comparison}: {variant}" for comparison, variant in found]
    comparisons = list(dict.fromkeys(comparison for comparison, _ in found))
    for place, ((comparison, _), runs) in enumerate(found.items()):
        bits = [run["bits_per_byte"] for run in runs]
        colour = SERIES[comparisons.index(comparison) % len(SERIES)]
        axis.plot(bits, [place] * len(bits), "o", ms=5, alpha=0.7, color=colour)
        axis.plot([fmean(bits)] * 2, [place - 0.3, place + 0.3], color=colour, lw=2)
    base = fmean(run["bits_per_byte"] for run in found["baseline", "fresh"])
    axis.axvline(base, color=INK, lw=0.8, ls=":")
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    title = "Validation loss: marks are seeds, bars their mean"
    dress(axis, title, "bits per byte (lower is better; dotted: the baseline's mean)", grid="x")
    save(drawing, to)


def grouped(results: Results) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Runs by comparison and variant, in the order in which they are listed, by seed."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for run in results:
        found[run["comparison"], run["variant"]].append(run)
    return {key: sorted(runs, key=lambda run: run["seed"]) for key, runs in found.items()}


def spread(values: Sequence[float]) -> str:
    """Standard deviation, to be put behind a mean; nothing of one value, which tells none."""
    return f" ± {stdev(values):.4f}" if len(values) > 1 else ""
