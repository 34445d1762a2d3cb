"""What a prediction is worth: per target over the held-out rows, then the mean over targets."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

LOWER_TAIL = 0.15


@dataclass(frozen=True)
class Prediction:
    """Losses in nats, (row, target), NaN where a law can't speak; and half-widths of the log."""

    losses: np.ndarray
    widths: np.ndarray | None = None


def scores(predicted: Prediction, measured: np.ndarray) -> dict[str, float]:
    """n, MRE %, Spearman, R2 and coverage of the 95% interval, each a mean over targets."""
    per_target = [
        _of_target(predicted.losses[:, at], measured[:, at]) for at in range(measured.shape[1])
    ]
    found = {name: _mean([one[name] for one in per_target]) for name in per_target[0]}
    found["n"] = float(np.sum(~np.isnan(measured)))
    if predicted.widths is not None:
        told = ~np.isnan(measured) & ~np.isnan(predicted.losses)
        misses = np.abs(np.log(measured[told]) - np.log(predicted.losses[told]))
        found["coverage"] = 100 * float(np.mean(misses <= predicted.widths[told]))
        found["width"] = 100 * float(np.mean(predicted.widths[told]))
    return found


def ranks(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Mean over targets of Spearman's rank correlation, rows without a loss left out."""
    pairs = zip(predicted.T, measured.T, strict=True)
    return _mean([_spearman(one, other) for one, other in pairs])


def swarm(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """Marin's numbers for an objective, (row,): RMSE, rank, regret and lower-tail optimism.

    Regret@k is how much worse than the pool's best the best of the k mixtures is that were
    predicted lowest; lower-tail optimism is the mean of max(0, measured - predicted) over the
    15% predicted lowest.
    """
    order = np.argsort(predicted)
    tail = order[: max(5, int(np.ceil(LOWER_TAIL * len(order))))]
    return {
        "n": float(len(order)),
        "rmse": float(np.sqrt(np.mean((predicted - measured) ** 2))),
        "spearman": _spearman(predicted, measured),
        "regret1": float(measured[order[0]] - measured.min()),
        "regret10": float(measured[order[:10]].min() - measured.min()),
        "optimism": float(np.mean(np.maximum(measured[tail] - predicted[tail], 0))),
    }


def r2_within(predicted: np.ndarray, measured: np.ndarray, groups: np.ndarray) -> float:
    """Mean over targets and groups of R2, so that no credit is given for knowing the group."""
    found = []
    for group in np.unique(groups):
        rows = groups == group
        pairs = zip(predicted[rows].T, measured[rows].T, strict=True)
        found += [_of_target(one, other)["r2"] for one, other in pairs]
    return _mean(found)


def _of_target(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    told = ~np.isnan(predicted) & ~np.isnan(measured)
    if not told.any():
        return dict.fromkeys(("mre", "spearman", "r2"), float("nan"))
    predicted, measured = predicted[told], measured[told]
    left = np.sum((predicted - measured) ** 2)
    return {
        "mre": 100 * float(np.mean(np.abs(predicted - measured) / measured)),
        "spearman": _spearman(predicted, measured),
        "r2": float(1 - left / np.sum((measured - measured.mean()) ** 2)),
    }


def _spearman(predicted: np.ndarray, measured: np.ndarray) -> float:
    told = ~np.isnan(predicted) & ~np.isnan(measured)
    one, other = rankdata(predicted[told]), rankdata(measured[told])
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])


def _mean(values: list[float]) -> float:
    """The mean over what could be told."""
    told = [value for value in values if not np.isnan(value)]
    return float(np.mean(told)) if told else float("nan")
