"""What a table can't be fitted with, and what is odd in it: errors and notes.

An error is for what no fit could mean; a note for what a fit can live with, but its reader should
know. Both say what to do.
"""

import numpy as np

from mixlab.errors import InvalidLoss, InvalidTable
from mixlab.laws import Law
from mixlab.mixture import Array
from mixlab.runs import Observations

SUM_TOLERANCE = 0.01
MOST_NATS = 12.0  # ln of 160,000 tokens: what a model that knows nothing loses
LEAST_NATS = 0.05
TINY_SHARE = 1e-5
TOGETHER = 1 - 1e-6  # squared correlation of shares that can't be told apart


def checked(law: Law, observations: Observations) -> tuple[Observations, tuple[str, ...]]:
    """The rows to fit, each once and in the law's step variable, and notes on the table.

    Raises InvalidTable for shares, steps or sizes that are none, and InvalidLoss.
    """
    _check_shares(observations)
    _check_losses(observations)
    seen = observations.in_tokens() if law.per_token else observations
    _check_steps(seen, "tokens" if law.per_token else "step")
    _check_sizes(law, seen)
    seen, notes = _once(seen)
    notes += _loss_notes(seen)
    if law.needs_mixture and seen.domains:
        notes += _share_notes(seen)
    return seen, tuple(notes)


def clusters_of(law: Law, observations: Observations) -> np.ndarray:
    """For each row the number of what cross-validation leaves out whole: mixture, or run."""
    if law.needs_mixture:
        return observations.mixture_index()
    return np.unique(np.array(observations.runs), return_inverse=True)[1].reshape(-1)


def _check_shares(seen: Observations) -> None:
    shares, totals = seen.proportions, seen.proportions.sum(axis=1)
    wrong = ~np.isfinite(shares) | (shares < 0) | (shares > 1 + SUM_TOLERANCE)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        swapped = "; does the column hold losses?" if shares[row, column] > 1 else ""
        raise InvalidTable(
            f"Run {seen.runs[row]!r} gives domain {seen.domains[column]!r} a share of "
            f"{shares[row, column]}; shares must lie between 0 and 1{swapped or '.'} "
            "Check the mixture columns, and leave out runs whose mixture is unknown."
        )
    off = np.flatnonzero(np.abs(totals - 1) > SUM_TOLERANCE)
    if seen.domains and len(off):
        raise InvalidTable(
            f"The shares of run {seen.runs[off[0]]!r} sum to {totals[off[0]]:.4f} "
            f"({len(off)} such rows); they must sum to 1. Name every domain of the mixture."
        )


def _check_losses(seen: Observations) -> None:
    losses = seen.losses_nats
    bad = np.argwhere(np.isinf(losses) | (losses < 0) | (losses == 0))
    totals = losses.sum(axis=1)
    if losses.shape[1] > 1 and len(losses) > 1 and np.all(np.abs(totals - 1) < 1e-3):
        raise InvalidTable(
            f"The losses of {', '.join(seen.targets)} sum to 1 in every row, as shares do; "
            "are the mixture and loss columns swapped?"
        )
    if not len(bad):
        return
    row, column = bad[0]
    raise InvalidLoss(
        f"Run {seen.runs[row]!r} has a loss of {losses[row, column]} "
        f"for target {seen.targets[column]!r} at step {seen.steps[row]:g} "
        f"({len(bad)} such losses in all); losses must be finite and above 0. Leave out runs "
        "that diverged, and leave cells blank where nothing was measured."
    )


def _check_steps(seen: Observations, unit: str) -> None:
    bad = np.flatnonzero(~(np.isfinite(seen.steps) & (seen.steps > 0)))
    if len(bad):
        raise InvalidTable(
            f"Run {seen.runs[bad[0]]!r} has a {unit} of {seen.steps[bad[0]]:g} ({len(bad)} such "
            "rows); laws speak of models that have been trained. Leave out evaluations from "
            "before the first step."
        )


def _check_sizes(law: Law, seen: Observations) -> None:
    needs = (("params", law.needs_params), ("unique_tokens", law.needs_unique_tokens))
    for name, needed in needs:
        bad = np.flatnonzero(~(getattr(seen, name) > 0))
        if needed and len(bad):
            raise InvalidTable(
                f"The law {law.name} needs {name} above 0 in every row; run "
                f"{seen.runs[bad[0]]!r} has {getattr(seen, name)[bad[0]]} ({len(bad)} such "
                f"rows). Add a column {name!r}, or choose a law without it."
            )


def _once(seen: Observations) -> tuple[Observations, list[str]]:
    """Rows with the same mixture, step, size and losses are one run given twice."""
    if not seen.domains:
        return seen, []  # runs without a mixture are told apart by their name alone
    keys = np.column_stack(
        [seen.proportions, seen.steps, seen.params, seen.unique_tokens, seen.losses_nats]
    )
    _, first = np.unique(np.nan_to_num(keys, nan=-1.0), axis=0, return_index=True)
    again = len(seen) - len(first)
    if not again:
        return seen, []
    twice = sorted({seen.runs[row] for row in set(range(len(seen))) - set(first.tolist())})
    return seen.take(np.sort(first)), [
        f"{again} rows repeat another's mixture, step, size and losses to the last digit and count "
        f"once ({_named(twice)}); seeds of one mixture would differ"
    ]


def _loss_notes(seen: Observations) -> list[str]:
    notes = []
    for target, losses in zip(seen.targets, seen.losses_nats.T, strict=True):
        known = losses[~np.isnan(losses)]
        if not len(known):
            continue
        if known.max() > 2 * MOST_NATS or np.median(known) > MOST_NATS:
            notes.append(
                f"the losses of {target!r} have a median of {np.median(known):.3g} and reach "
                f"{known.max():.3g}, more than a model that guesses loses in nats per token: if "
                "they are bits, multiply them by 0.693; if perplexities, take their logarithm"
            )
        elif np.median(known) < LEAST_NATS:
            notes.append(
                f"the losses of {target!r} have a median of {np.median(known):.3g}, less than text "
                "leaves in nats per token: are they accuracies, shares or per character?"
            )
    return notes


def _share_notes(seen: Observations) -> list[str]:
    _, first = np.unique(seen.mixture_index(), return_index=True)
    shares = seen.proportions[first]
    spread = np.ptp(shares, axis=0)
    notes = []
    constant = [name for name, one in zip(seen.domains, spread, strict=True) if one < 1e-9]
    if constant:
        notes.append(
            f"the share of {_named(constant)} is the same in every mixture, so what it is worth "
            "can't be told; train runs with another share of it"
        )
    notes += [
        f"the shares of {_named(names)} move together or against each other, so what each is "
        "worth can't be told apart; train runs in which one moves without the other"
        for names in _together(shares, seen.domains, spread)
    ]
    tiny = int(np.sum((shares > 0) & (shares < TINY_SHARE)))
    if tiny:
        notes.append(
            f"{tiny} shares are above 0 but below {TINY_SHARE:g}, which few tokens make up; write "
            "0 where a domain was left out"
        )
    return notes


def _together(shares: Array, domains: tuple[str, ...], spread: Array) -> list[list[str]]:
    """Groups of domains, not of all, whose shares rise and fall as one."""
    varied = np.flatnonzero(spread >= 1e-9)
    if len(shares) < 3 or len(varied) < 3:
        return []
    related = np.asarray(np.corrcoef(shares[:, varied], rowvar=False) ** 2 > TOGETHER)
    groups = {tuple(np.flatnonzero(row)) for row in related if 1 < row.sum() < len(varied)}
    return [[domains[varied[index]] for index in group] for group in sorted(groups)]


def _named(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:5]))
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
