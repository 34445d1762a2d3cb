"""The protocols: what is fitted, what is predicted, how it is scored.

Every split leaves whole mixtures out, at all their sizes and steps; a seed decides which. Each
protocol answers a table of named rows for one contender and one seed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from benchmarks.laws import tables
from benchmarks.laws.contenders import Contender, Fitted
from benchmarks.laws.scores import Prediction, r2_within, ranks, scores, swarm
from mixlab.runs import Observations

Rows = dict[str, dict[str, float]]
SMALLEST = 122e6  # Apple's


class CanNot(Exception):
    """The contender can't be asked this; the message says why."""


@dataclass(frozen=True)
class Protocol:
    """One protocol: `run(contender, folder, seed)` gives its rows."""

    key: str
    about: str
    seeds: int
    needs: str  # the folder of its tables
    run: Callable[[Contender, Path, int], Rows]


def _fitted(contender: Contender, train: Observations, test: Observations) -> tuple[Fitted, float]:
    """The fit and its seconds."""
    reason = contender.can(train, test)
    if reason is not None:
        raise CanNot(reason)
    start = perf_counter()
    found = contender.fit(train)
    return found, perf_counter() - start


def _scored(contender: Contender, train: Observations, test: Observations) -> dict[str, float]:
    found, seconds = _fitted(contender, train, test)
    return scores(found.predict(test), test.losses_nats) | {"seconds": seconds}


def regmix(runs: int) -> Callable[[Contender, Path, int], Rows]:
    """RegMix (P1, P7): some of the 512 runs predict the 256, rank them at 60M, choose from them."""

    def run(contender: Contender, folder: Path, seed: int) -> Rows:
        data = tables.regmix(folder)
        chosen = np.random.default_rng(seed).permutation(len(data.train))[:runs]
        found, seconds = _fitted(contender, data.train.take(np.sort(chosen)), data.test)
        predicted = found.predict(data.test)
        mean = predicted.losses.mean(axis=1)
        larger = swarm(mean, data.larger.losses_nats.mean(axis=1))
        regrets = {"regret1_60m": larger["regret1"], "regret10_60m": larger["regret10"]}
        rank = ranks(predicted.losses, data.larger.losses_nats)
        n = float(data.larger.losses_nats.size)
        return {
            f"RegMix, {runs} runs -> 256 of 1M": scores(predicted, data.test.losses_nats)
            | {"seconds": seconds},
            f"RegMix, {runs} runs -> rank of 256 of 60M": {"n": n, "spearman": rank},
            f"RegMix, {runs} runs -> choice from 256": swarm(
                mean, data.test.losses_nats.mean(axis=1)
            )
            | regrets,
        }

    return run


def swarm_out_of_fold(contender: Contender, folder: Path, seed: int) -> Rows:
    """Marin (P7): five folds over RegMix's 512 mixtures, the mean loss predicted out of fold."""
    train = tables.regmix(folder).train
    predicted, _ = _out_of_fold(contender, train, seed)
    mean = predicted.losses.mean(axis=1)
    return {"RegMix, 512 runs, out of fold": swarm(mean, train.losses_nats.mean(axis=1))}


def apple_mixtures(fitted: float) -> Callable[[Contender, Path, int], Rows]:
    """Apple at 122M (P4): a part, or a number, of the 60 mixtures predicts the rest."""

    def run(contender: Contender, folder: Path, seed: int) -> Rows:
        seen = tables.apple(folder)
        seen = seen.take(seen.params == SMALLEST)
        mixture = seen.mixture_index()
        numbers = np.random.default_rng(seed).permutation(mixture.max() + 1)
        count = round(fitted * len(numbers)) if fitted < 1 else int(fitted)
        kept = np.isin(mixture, numbers[:count])
        name = f"Apple 122M, {count} mixtures -> {len(numbers) - count}"
        return {name: _scored(contender, seen.take(kept), seen.take(~kept))}

    return run


def apple_size(contender: Contender, folder: Path, seed: int) -> Rows:
    """Apple over sizes (P4): fitted up to 680M, 937M predicted."""
    seen = tables.apple(folder)
    small = seen.params < 900e6
    train, test = seen.take(small), seen.take(~small)
    found, seconds = _fitted(contender, train, test)
    predicted = found.predict(test)
    rows = {"Apple, up to 680M -> 937M, eight targets": scores(predicted, test.losses_nats)
            | {"seconds": seconds}}  # fmt: skip
    other = [test.targets.index("openhermes")]
    widths = None if predicted.widths is None else predicted.widths[:, other]
    alone = Prediction(predicted.losses[:, other], widths)
    return rows | {
        "Apple, up to 680M -> 937M, openhermes": scores(alone, test.losses_nats[:, other])
    }


def bimix_steps(contender: Contender, folder: Path, seed: int) -> Rows:
    """BiMix (P3): all checkpoints but the last predict the last; and the first half of them."""
    seen = tables.apple(folder)
    seen = seen.take(seen.params == SMALLEST)
    last = seen.tokens == seen.tokens.max()
    # The checkpoint at 19.998 billion tokens is the last one again: its losses are the same.
    before = seen.tokens < 0.98 * seen.tokens.max()
    early = seen.tokens <= seen.tokens.max() / 2
    return {
        "Apple 122M, all but the last checkpoint -> the last": _scored(
            contender, seen.take(before), seen.take(last)
        ),
        "Apple 122M, up to half the tokens -> the last checkpoint": _scored(
            contender, seen.take(early), seen.take(last)
        ),
    }


def sldbench(contender: Contender, folder: Path, seed: int) -> Rows:
    """SLDBench (P5): five folds by mixture over the train split; R2 within sizes and pooled."""
    seen = tables.sldbench(folder)
    predicted, seconds = _out_of_fold(contender, seen, seed)
    found = scores(predicted, seen.losses_nats)
    within = r2_within(predicted.losses, seen.losses_nats, seen.params)
    return {
        "SLDBench, five folds": found | {"r2": within, "r2_pooled": found["r2"], "seconds": seconds}
    }


def _out_of_fold(contender: Contender, seen: Observations, seed: int) -> tuple[Prediction, float]:
    """Every row predicted by a fit that saw nothing of its mixture, and the seconds of one fit."""
    losses = np.full(seen.losses_nats.shape, np.nan)
    widths = np.full(seen.losses_nats.shape, np.nan)
    total = 0.0
    for left_out in _folds(seen, seed):
        test = seen.take(left_out)
        found, seconds = _fitted(contender, seen.take(~left_out), test)
        predicted = found.predict(test)
        losses[left_out] = predicted.losses
        if predicted.widths is not None:
            widths[left_out] = predicted.widths
        total += seconds / 5
    return Prediction(losses, None if np.isnan(widths).all() else widths), total


def _folds(seen: Observations, seed: int, folds: int = 5) -> Iterator[np.ndarray]:
    mixture = seen.mixture_index()
    part = np.random.default_rng(seed).permutation(mixture.max() + 1) % folds
    for fold in range(folds):
        yield part[mixture] == fold


# In the order in which they run.
PROTOCOLS = {
    found.key: found
    for found in (
        Protocol("P5", "SLDBench", 3, "sldbench", sldbench),
        Protocol("P4-12", "Apple, 12 mixtures", 5, "dmsl-slimpajama", apple_mixtures(12)),
        Protocol("P4-70", "Apple, 70/30", 5, "dmsl-slimpajama", apple_mixtures(0.7)),
        Protocol("P4-size", "Apple, 937M", 1, "dmsl-slimpajama", apple_size),
        Protocol("P1-64", "RegMix, 64 runs", 5, "regmix", regmix(64)),
        Protocol("P1-128", "RegMix, 128 runs", 3, "regmix", regmix(128)),
        Protocol("P1-512", "RegMix, 512 runs", 1, "regmix", regmix(512)),
        Protocol("P3", "BiMix's steps", 1, "dmsl-slimpajama", bimix_steps),
        Protocol("P7", "RegMix's swarm out of fold", 1, "regmix", swarm_out_of_fold),
    )
}
