"""What is measured once, not per contender: objectives of known optima, speed, Marin's optimism."""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from benchmarks.laws import tables
from mixlab.fitting import fit
from mixlab.laws import LAWS, Inputs
from mixlab.runs import Observations

HUBER = 1e-3
ROUNDS = 3
Fact = tuple[str, str, str]  # what, measured, the or the source's number


def facts(folder: Path) -> list[Fact]:
    """Every fact whose law is in the registry and whose table is in the folder."""
    found: list[Fact] = []
    for needs, measure in MEASURES:
        if (folder / needs).is_dir():
            found += measure(folder)
    return found


def known_optima(folder: Path) -> list[Fact]:
    """Objectives of Chinchilla's and the data-constrained law's fits, as their sources sum them."""
    return [
        *_objective("chinchilla", tables.chinchilla(folder), "240 Chinchilla runs", "0.0010183"),
        *_objective("data_constrained", tables.datablations(folder),
                    "182 runs with repeated data", "0.015808"),
    ]  # fmt: skip


def _objective(name: str, seen: Observations, about: str, known: str) -> list[Fact]:
    if name not in LAWS:
        return []
    start = perf_counter()
    found = fit(LAWS[name], seen.in_tokens()).target("loss")
    seconds = perf_counter() - start
    inputs = Inputs(seen.proportions, seen.tokens, None, seen.params, seen.unique_tokens)
    predicted = LAWS[name].predict(found.values, inputs)
    total = float(np.sum(huber(np.log(predicted) - np.log(seen.losses_nats[:, 0]))))
    told = ", ".join(f"{key} {value:.4g}" for key, value in found.parameters.items())
    wide = {key: span for key, span in found.interval95.items() if span is not None}
    spans = ", ".join(f"{key} {low:.3g} to {high:.3g}" for key, (low, high) in wide.items())
    return [
        (f"`{name}`, {about}: sum of Huber(0.001) of log residuals", f"{total:.8f}", f"<= {known}"),
        (f"`{name}`: parameters", told, ""),
        (f"`{name}`: 95% intervals", spans, ""),
        (f"`{name}`: seconds", f"{seconds:.2f}", ""),
    ]


def huber(residuals: np.ndarray, scale: float = HUBER) -> np.ndarray:
    """Huber's function: r^2 / 2 near 0, linear beyond the scale."""
    size = np.abs(residuals)
    return np.where(size <= scale, 0.5 * size**2, scale * (size - 0.5 * scale))


def marin(folder: Path) -> list[Fact]:
    """How far the losses that twelve fits promised at their optimum were missed."""
    runs, predicted, actual = tables.marin(folder).T
    few, many = actual[runs <= np.median(runs)], actual[runs > np.median(runs)]
    gap = actual - predicted
    split = runs <= np.median(runs)
    return [
        ("Marin: fits whose promise was below what was measured", f"{np.sum(gap > 0)} of {len(gap)}", ""),  # noqa: E501
        ("Marin: measured - promised, bits per byte, mean (few runs; many runs)",
         f"{gap.mean():.4f} ({gap[split].mean():.4f}; {gap[~split].mean():.4f})", ""),
        ("Marin: measured at the proposed mixture, mean (few; many); best of 160 observed 0.8630",
         f"{actual.mean():.4f} ({few.mean():.4f}; {many.mean():.4f})", ""),
    ]  # fmt: skip


def speed(folder: Path) -> list[Fact]:
    """Seconds of one fit of each law that a table suits, on one core."""
    apple = tables.apple(folder)
    small = apple.take(apple.params == apple.params.min())
    domains = [small.targets.index(name) for name in small.domains]
    found = [
        _timed(name, _targets(small, domains), "7 targets x 654 rows", "<= 1 s") for name in LAWS
    ]
    if (folder / "regmix").is_dir():
        train = tables.regmix(folder).train
        found += [
            _timed(name, train, "13 targets x 512 runs x 17 domains", "<= 5 s") for name in LAWS
        ]
    return [fact for facts in found for fact in facts]


def _targets(seen: Observations, columns: list[int]) -> Observations:
    from dataclasses import replace

    targets = tuple(seen.targets[column] for column in columns)
    return replace(seen, targets=targets, losses_nats=seen.losses_nats[:, columns])


def _timed(name: str, seen: Observations, about: str, known: str) -> list[Fact]:
    from benchmarks.laws.contenders import OfLaw

    contender = OfLaw(name)
    if contender.can(seen, seen) is not None:
        return []
    seconds = _median(lambda: contender.fit(seen))
    return [(f"`{name}`: {about}, seconds", f"{seconds:.2f}", known)]


def _median(work: Callable[[], object]) -> float:
    seconds: list[float] = []
    # A slow fit is timed once: its spread doesn't matter beside its length.
    while len(seconds) < ROUNDS and sum(seconds) < 5:
        start = perf_counter()
        work()
        seconds.append(perf_counter() - start)
    return median(seconds)


MEASURES: tuple[tuple[str, Callable[[Path], list[Fact]]], ...] = (
    ("chinchilla", known_optima),
    ("dmsl-slimpajama", speed),
    ("marin", marin),
)
