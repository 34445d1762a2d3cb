"""Which laws compete on a table, on which of its rows, and what each misses there."""

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec

import numpy as np

from mixlab.errors import InvalidInput, InvalidLoss
from mixlab.fitting import TargetFit, fit
from mixlab.laws import LAWS, Inputs, Law
from mixlab.mixture import Array
from mixlab.runs import Observations

MOST_STEPS = 3  # of each mixture and size, that laws compete on
MOST_MIXTURES = 128  # that laws compete on
IMPLAUSIBLE = 3.0  # times the greatest loss seen
FARTHEST = 50.0  # in log loss; a left-out row missed by more was not foretold at all

# Laws with two parameters a domain and more are not tried on fewer mixtures a domain than this.
MIXTURES_PER_DOMAIN = {"bimix_pools": 3}
ONLY_NAMED = {
    "lightgbm": "slow, and needs hundreds of runs",
    "bimix_transfer_floor": "bimix_saturating does its work",
    "log_linear": "bimix_tilt holds it as a special case",
    "exponential": "bimix_tilt has its terms, and beat it on every public table",
}


def in_one_unit(observations: Observations, named: Sequence[Law] | None) -> Observations:
    """With tokens as the step variable where laws over model sizes compete, or are named."""
    per_token = _several_sizes(observations) if named is None else any(
        one.per_token for one in named
    )  # fmt: skip
    return observations.in_tokens() if per_token else observations


def _several_sizes(observations: Observations) -> bool:
    sizes = observations.params
    return bool(np.all(np.isfinite(sizes)) and len(np.unique(sizes)) > 1)


def suited(
    observations: Observations, named: Sequence[Law] | None
) -> tuple[list[Law], dict[str, str]]:
    """Laws that can compete on the table, and why the others can't."""
    found, left_out = [], {}
    for one in named or LAWS.values():
        reason = _lacking(one, observations)
        if reason is None and named is None:
            reason = _unfit(one, observations)
        if reason is None:
            found.append(one)
        else:
            left_out[one.name] = reason
    return found, left_out


def _lacking(one: Law, observations: Observations) -> str | None:
    """What the law needs and the table has not, in words."""
    if one.needs_params and not np.all(observations.params > 0):
        return "needs the models' sizes, a column 'params' without gaps"
    if one.needs_unique_tokens and not np.all(observations.unique_tokens > 0):
        return "needs the tokens before repeats, a column 'unique_tokens' without gaps"
    if one.needs_mixture and not observations.domains:
        return "needs mixtures, and the table names no domain"
    if one.residual == "trees" and find_spec("lightgbm") is None:
        return "needs the package lightgbm: pip install 'mixlab[trees]'"
    return None


def _unfit(one: Law, observations: Observations) -> str | None:
    """Why a law that could be fitted is not tried unless it is named."""
    sizes = len(np.unique(observations.params)) if _several_sizes(observations) else 1
    if one.needs_params and sizes == 1:
        return "sees model sizes, and the table has one"
    if not one.needs_params and sizes > 1:
        return f"sees no model size, and the table has {sizes}"
    count = mixtures(observations) if observations.domains else 1
    if not one.needs_mixture and count > 1:
        return f"sees no mixture, and the table has {count}"
    needed = MIXTURES_PER_DOMAIN.get(one.name, 0) * len(observations.domains)
    if count < needed:
        return f"needs {needed} mixtures to be worth its parameters, and the table has {count}"
    if one.residual == "process":
        return "competes under the name of its formula, with and without the process"
    if one.name in ONLY_NAMED:
        return f"tried only where it is named: {ONLY_NAMED[one.name]}"
    return None


def thinned(observations: Observations) -> Observations:
    """Some mixtures, and some steps of each at each size, the first and the last among them."""
    index = observations.mixture_index()
    count = int(index.max()) + 1
    # Mixtures are numbered in sorted order, so that even spacing keeps their variety.
    places = np.linspace(0, count - 1, min(count, MOST_MIXTURES)).round()
    observations = observations.take(np.isin(index, places))
    sizes = np.nan_to_num(observations.params)
    kept = np.zeros(len(observations), dtype=bool)
    groups = np.unique(np.column_stack([observations.mixture_index(), sizes]), axis=0,
                       return_inverse=True)[1].reshape(-1)  # fmt: skip
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        steps = np.unique(observations.steps[rows])
        places = np.linspace(0, len(steps) - 1, min(MOST_STEPS, len(steps)))
        kept[rows] = np.isin(observations.steps[rows], steps[places.round().astype(int)])
    return observations.take(kept)


def mixtures(observations: Observations) -> int:
    """How many different ones there are."""
    return len(np.unique(observations.mixture_index()))


def compete(
    laws: Sequence[Law], rows: Observations, share_floor: float | None
) -> tuple[dict[str, tuple[Array, int]], dict[str, str]]:
    """Per law its error on each mixture, (mixture,), and its number of parameters.

    And why laws are not among them.
    """
    fits: dict[str, TargetFit] = {}
    why: dict[str, str] = {}
    whole = _named_by_mixture(rows)
    for one in laws:
        try:
            asked = rows if one.needs_mixture else whole
            fitted = fit(one, asked, share_floor=share_floor, profiles=False)
        except InvalidLoss:
            raise
        except InvalidInput as error:
            why[one.name] = str(error)
            continue
        fits[one.name] = next(iter(fitted.targets.values()))
    worst = IMPLAUSIBLE * float(np.nanmax(rows.losses_nats))
    fewest = min((found.excluded_rows for found in fits.values()), default=0)
    errors: dict[str, tuple[Array, int]] = {}
    for name, found in fits.items():
        if found.excluded_rows > fewest:
            why[name] = f"undefined on {found.excluded_rows} rows with a share of 0"
        elif (most := most_foretold(found, rows)) > worst:
            why[name] = f"foretells {most:.3g} nats where shares are 0, which no run can have shown"
        elif found.heldout_errors is None or not np.all(np.abs(found.heldout_errors) < FARTHEST):
            why[name] = "can't be fitted without some of the mixtures"
        else:
            missed = _by_mixture(found, found.heldout_errors)
            errors[name] = (missed, len(found.parameters))
    return errors, why


def most_foretold(found: TargetFit, rows: Observations) -> float:
    """The greatest loss that a law defined at shares of 0 foretells without a domain or with one
    alone: where no run was, a law may fit all runs and yet foretell anything.
    """
    if not found.law.zero_shares or not found.law.needs_mixture:
        return 0.0
    even = 1 - np.eye(len(rows.domains))
    places = np.concatenate(
        [even / np.maximum(even.sum(axis=1, keepdims=True), 1), np.eye(len(even))]
    )
    first = rows.take([int(np.argmax(rows.steps))] * len(places))
    own = rows.domains.index(found.target) if found.target in rows.domains else None
    inputs = Inputs(places, first.steps, own, first.params, first.unique_tokens)
    with np.errstate(all="ignore"):
        return float(np.max(np.nan_to_num(found.law.predict(found.values, inputs), nan=np.inf)))


def _named_by_mixture(rows: Observations) -> Observations:
    """The same with its mixture for each run's name, unless there is one mixture alone.

    Laws that see no mixture are tested on runs left out, others on mixtures; to be compared, all
    must leave out the same rows.
    """
    if mixtures(rows) == 1:
        return rows
    return replace(rows, runs=tuple(f"{number:09d}" for number in rows.mixture_index().tolist()))


def _by_mixture(found: TargetFit, errors: Array) -> Array:
    """Mean relative error of each mixture, (mixture,), in the order of their numbers."""
    number = np.unique(np.asarray(found.heldout_mixtures), return_inverse=True)[1].reshape(-1)
    misses = np.abs(np.expm1(errors))
    return np.asarray(np.bincount(number, weights=misses) / np.bincount(number))
