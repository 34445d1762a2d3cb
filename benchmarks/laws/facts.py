"""What is measured once, not per contender: objectives of known optima, speed, Marin's optimism."""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from benchmarks.laws import tables
from mixlab.fitting import fit
from mixlab.fitting.least_squares import estimate
from mixlab.fitting.problem import Problem
from mixlab.fitting.search import Robust
from mixlab.laws import LAWS, Inputs
from mixlab.runs import Observations

HUBER = 1e-3
STATED = Robust("huber", HUBER)
# A, B, E, alpha and beta of arXiv 2305.16264.
SOURCE = {
    "E": np.exp(0.6254804),
    "A": np.exp(6.255414),
    "B": np.exp(7.3049974),
    "alpha": 0.3526596,
    "beta": 0.3526596,
}
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
    seen = tables.chinchilla(folder)
    start = perf_counter()
    found = fit(LAWS["chinchilla"], seen.in_tokens(), robust=STATED).target("loss")
    seconds = perf_counter() - start
    total = float(np.sum(huber(_problem("chinchilla", seen).residuals(found.values))))
    told = ", ".join(f"{name} {value:.4g}" for name, value in found.parameters.items())
    return [
        ("`chinchilla`, 240 runs: sum of Huber(0.001)", f"{total:.8f}", "<= 0.0010183"),
        ("`chinchilla`: parameters", f"{told}; {seconds:.2f} s", ""),
        *_repetition(folder),
    ]


def _repetition(folder: Path) -> list[Fact]:
    """The two constants of repetition, the other five held as their source holds them.

    The 95% interval is where 2 n log(objective / least) <= 3.84, the other constant refitted.
    """
    problem = _problem("data_constrained", tables.datablations(folder))
    profile = {
        star: _held(problem, SOURCE | {"r_d_star": star}) for star in np.geomspace(2, 2e3, 61)
    }
    best = _held(problem, SOURCE)
    limit = best * np.exp(3.84 / (2 * len(problem.losses)))
    inside = [star for star, total in profile.items() if total <= limit]
    high = f"{max(inside):.0f}" if max(inside) < max(profile) else "beyond 2000"
    return [
        ("`data_constrained`, 182 runs: sum of Huber(0.001)", f"{best:.7f}", "<= 0.015808"),
        ("`data_constrained`: 95% of r_d_star", f"{min(inside):.1f} to {high}", "a wide interval"),
    ]


def _held(problem: Problem, held: dict[str, float]) -> float:
    found = estimate(problem, held, np.arange(len(problem.losses)), robust=STATED)
    return float(np.sum(huber(problem.residuals(found.values))))


def _problem(name: str, seen: Observations) -> Problem:
    inputs = Inputs(seen.proportions, seen.tokens, None, seen.params, seen.unique_tokens)
    return Problem(LAWS[name], LAWS[name].parameters((), None), inputs, seen.losses_nats[:, 0])


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
    found = [
        _timed(name, small.only(small.domains), "7 targets x 654 rows", "<= 1 s") for name in LAWS
    ]
    if (folder / "regmix").is_dir():
        train = tables.regmix(folder).train
        found += [
            _timed(name, train, "13 targets x 512 runs x 17 domains", "<= 5 s") for name in LAWS
        ]
    return [fact for facts in found for fact in facts]


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
