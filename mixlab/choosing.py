"""Choosing a law for every target: by held-out error, and the simplest that is as good.

    error of a law = mean over mixtures of the mean |predicted - observed| / observed of its rows,
                     each predicted by a fit that had not seen the mixture

What a target says of the laws and what all targets say of them count the same: a law's logarithmic
error on the target plus its mean excess over the best one elsewhere. With few mixtures a target's
own errors choose laws that happen to fit it (16 mixtures: 0.70 % by them alone, 0.55 % so).

Rule: among the laws whose error is within half a standard error of the best one's, the one with
the fewest parameters (Breiman et al. 1984, section 3.4.3, who take a whole one; laws here are
shrunk already, and with 16 runs of Apple's table a whole one chose laws 8 and 18% worse than the
best). The standard error is that of the paired difference, mixture by mixture, so that mixtures
which every law finds hard don't blur it. Nor is a law preferred for differences below what seeds
of one mixture make. Stacks of laws are not tried: means of several laws' predictions lost to the
best one on RegMix's and Apple's tables.

Laws that see model sizes compete where the table has several, the others where it has one. To
cost little they compete on at most 128 mixtures and three steps of each at each size; the chosen
one is fitted to all rows, with a Gaussian process on its residuals where that gains on mixtures
left out (fitting/process.py). Processes don't compete: on a law that suits a target badly they
look better than they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np

from mixlab.diagnostics import seed_noise
from mixlab.errors import InvalidInput, InvalidLoss, TooFewMixtures
from mixlab.fitting import Fit, TargetFit, fit
from mixlab.fitting.search import Robust
from mixlab.laws import LAWS, Inputs, Law, law
from mixlab.mixture import Array
from mixlab.runs import Observations

MOST_STEPS = 3  # of each mixture and size, that laws compete on
MOST_MIXTURES = 128  # that laws compete on
STANDARD_ERRORS = 0.5
IMPLAUSIBLE = 3.0  # times the greatest loss seen
# The mean size of a normal deviate with a standard deviation of 1.
MEAN_DEVIATE = (2 / np.pi) ** 0.5

# Laws with two parameters a domain and more are not tried on fewer mixtures a domain than this.
MIXTURES_PER_DOMAIN = {"bimix_pools": 3}
ONLY_NAMED = {
    "lightgbm": "slow, and needs hundreds of runs",
    "bimix_transfer_floor": "bimix_saturating does its work",
    "log_linear": "bimix_tilt holds it as a special case",
    "exponential": "bimix_tilt has its terms, and beat it on every public table",
}


@dataclass(frozen=True)
class Score:
    """A law's held-out error on one target."""

    mre_percent: float
    standard_error_percent: float  # over mixtures
    parameters: int


@dataclass(frozen=True)
class TargetChoice:
    """The law of one target, and why."""

    target: str
    law: str
    reason: str
    scores: Mapping[str, Score]
    left_out: Mapping[str, str]  # law to why it did not compete
    mixtures: int
    seed_noise_percent: float | None  # None where no mixture was run twice


@dataclass(frozen=True)
class Choice:
    """A law for every target that has one."""

    targets: Mapping[str, TargetChoice]
    left_out_targets: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return asdict(self)


@dataclass(frozen=True)
class Contest:
    """What the laws missed on one target."""

    errors: Mapping[str, tuple[Array, int]]  # law to (mixture,) and its number of parameters
    left_out: Mapping[str, str]
    noise_percent: float | None

    @property
    def misses(self) -> dict[str, Array]:
        """Per law its error on each mixture, (mixture,)."""
        return {name: found for name, (found, _) in self.errors.items()}


def choose(
    observations: Observations,
    laws: Sequence[str] | None = None,
    *,
    share_floor: float | None = None,
) -> Choice:
    """The law of each target by held-out error, among those named or all that suit the table.

    Raises UnknownLaw, InvalidLoss, and TooFewMixtures where no law can be fitted to any target.
    """
    named = [law(name) for name in laws] if laws else None
    seen = _in_one_unit(observations, named)
    suited, left_out = _suited(seen, named)
    rows = _thinned(seen)
    noise = seed_noise(seen)
    # All mixtures would tell laws apart more sharply than those that they compete on.
    sharper = (_mixtures(rows) / _mixtures(seen)) ** 0.5
    contests: dict[str, Contest] = {}
    lost: dict[str, str] = {}
    for name in seen.targets:
        errors, why = _compete(suited, _alone(rows, [name]), share_floor)
        why = {**left_out, **why}
        if errors:
            contests[name] = Contest(errors, why, _percent(noise.get(name), seen, name))
        else:
            lost[name] = "; ".join(f"{one}: {reason}" for one, reason in why.items())
    if not contests:
        raise TooFewMixtures(f"No law can be fitted. {next(iter(lost.values()))}.")
    elsewhere = _elsewhere(list(contests.values()))
    chosen = {name: _chosen(name, one, elsewhere, sharper) for name, one in contests.items()}
    return Choice(chosen, lost)


def fit_auto(
    observations: Observations,
    laws: Sequence[str] | None = None,
    *,
    choice: Choice | None = None,
    share_floor: float | None = None,
    profiles: bool = True,
    replicates: int = 0,
    robust: Robust | None = None,
) -> Fit:
    """Every target fitted by the law that `choose` gives it; the notes say why.

    `choice` is one made before, on the same observations. Raises what `choose` and `fit` raise.
    """
    choice = choice or choose(observations, laws, share_floor=share_floor)
    groups: dict[str, list[str]] = {}
    for name, one in choice.targets.items():
        groups.setdefault(one.law, []).append(name)
    seen = _in_one_unit(observations, [LAWS[name] for name in groups])
    fits = [
        fit(
            _whole(LAWS[name]), _alone(seen, targets),
            share_floor=share_floor, profiles=profiles, replicates=replicates, robust=robust,
        )
        for name, targets in groups.items()
    ]  # fmt: skip
    found = {name: target for one in fits for name, target in one.targets.items()}
    reasons = [f"{name}: {one.reason}" for name, one in choice.targets.items()]
    return replace(
        fits[0],
        law_name="auto",
        targets={name: found[name] for name in choice.targets},
        left_out_targets=dict(choice.left_out_targets),
        notes=tuple(dict.fromkeys([note for one in fits for note in one.notes] + reasons)),
    )


def _in_one_unit(observations: Observations, named: Sequence[Law] | None) -> Observations:
    """With tokens as the step variable where laws over model sizes compete, or are named."""
    per_token = _several_sizes(observations) if named is None else any(
        one.per_token for one in named
    )  # fmt: skip
    return observations.in_tokens() if per_token else observations


def _several_sizes(observations: Observations) -> bool:
    sizes = observations.params
    return bool(np.all(np.isfinite(sizes)) and len(np.unique(sizes)) > 1)


def _suited(
    observations: Observations, named: Sequence[Law] | None
) -> tuple[list[Law], dict[str, str]]:
    """Laws that can compete on the table, and why the others can't."""
    suited, left_out = [], {}
    for one in named or LAWS.values():
        reason = _lacking(one, observations)
        if reason is None and named is None:
            reason = _unfit(one, observations)
        if reason is None:
            suited.append(one)
        else:
            left_out[one.name] = reason
    return suited, left_out


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
    mixtures = _mixtures(observations) if observations.domains else 1
    if not one.needs_mixture and mixtures > 1:
        return f"sees no mixture, and the table has {mixtures}"
    needed = MIXTURES_PER_DOMAIN.get(one.name, 0) * len(observations.domains)
    if mixtures < needed:
        return f"needs {needed} mixtures to be worth its parameters, and the table has {mixtures}"
    if one.residual == "process":
        return "competes under the name of its formula, with and without the process"
    if one.name in ONLY_NAMED:
        return f"tried only where it is named: {ONLY_NAMED[one.name]}"
    return None


def _thinned(observations: Observations) -> Observations:
    """Some mixtures, and some steps of each at each size, the first and the last among them."""
    mixtures = observations.mixture_index()
    count = int(mixtures.max()) + 1
    # Mixtures are numbered in sorted order, so that even spacing keeps their variety.
    places = np.linspace(0, count - 1, min(count, MOST_MIXTURES)).round()
    observations = observations.take(np.isin(mixtures, places))
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


def _mixtures(observations: Observations) -> int:
    return len(np.unique(observations.mixture_index()))


def _alone(observations: Observations, targets: Sequence[str]) -> Observations:
    columns = [observations.targets.index(name) for name in targets]
    losses = observations.losses_nats[:, columns]
    return replace(observations, targets=tuple(targets), losses_nats=losses)


def _compete(
    suited: Sequence[Law], rows: Observations, share_floor: float | None
) -> tuple[dict[str, tuple[Array, int]], dict[str, str]]:
    """Per law its error on each mixture, (mixture,), and its number of parameters.

    And why laws are not among them.
    """
    fits: dict[str, TargetFit] = {}
    why: dict[str, str] = {}
    for one in suited:
        try:
            fitted = fit(one, rows, share_floor=share_floor, profiles=False)
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
        elif (most := _most_foretold(found, rows)) > worst:
            why[name] = f"foretells {most:.3g} nats where shares are 0, which no run can have shown"
        elif found.heldout_errors is None or not np.all(np.isfinite(found.heldout_errors)):
            why[name] = "can't be fitted without some of the mixtures"
        else:
            missed = _by_mixture(found, found.heldout_errors)
            errors[name] = (missed, len(found.parameters))
    return errors, why


def _most_foretold(found: TargetFit, rows: Observations) -> float:
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


def _whole(one: Law) -> Law:
    """The law with a process on its residuals, unless it sees no mixture or has trees there."""
    smooth = one.needs_mixture and one.residual is None
    return replace(one, residual="process") if smooth else one


def _by_mixture(found: TargetFit, errors: Array) -> Array:
    """Mean relative error of each mixture, (mixture,), in the order of their numbers."""
    number = np.unique(np.asarray(found.heldout_mixtures), return_inverse=True)[1].reshape(-1)
    misses = np.abs(np.expm1(errors))
    return np.asarray(np.bincount(number, weights=misses) / np.bincount(number))


def _percent(noise: float | None, observations: Observations, target: str) -> float | None:
    """Seed noise as a part of the median loss."""
    if noise is None:
        return None
    losses = observations.losses_nats[:, observations.targets.index(target)]
    return 100 * noise / float(np.nanmedian(losses))


def _elsewhere(contests: Sequence[Contest]) -> dict[str, float]:
    """How much worse than the best one a law is over all targets: a mean of logarithms."""
    gathered: dict[str, list[float]] = {}
    for contest in contests:
        means = {name: float(np.mean(found)) for name, found in contest.misses.items()}
        least = max(min(means.values()), 1e-12)
        for name, mean in means.items():
            gathered.setdefault(name, []).append(float(np.log(max(mean, least) / least)))
    return {name: float(np.mean(logs)) for name, logs in gathered.items()}


def _chosen(
    target: str, contest: Contest, elsewhere: Mapping[str, float], sharper: float
) -> TargetChoice:
    """The simplest law whose error is not clearly above the best one's."""
    errors, misses, noise = contest.errors, contest.misses, contest.noise_percent
    worse = {
        name: float(np.log(max(float(np.mean(found)), 1e-12))) + elsewhere[name]
        for name, found in misses.items()
    }
    best = min(worse, key=lambda name: worse[name])
    simple = sorted(errors, key=lambda name: (errors[name][1], float(np.mean(misses[name]))))

    def as_good(name: str) -> bool:
        if noise is not None and 100 * float(np.mean(misses[name])) <= MEAN_DEVIATE * noise:
            return True
        # Of both halves of the evidence, only that from this target is uncertain.
        typical = max(float(np.mean(misses[best])), 1e-12)
        doubt = sharper * _error(misses[name] - misses[best]) / typical
        return worse[name] - worse[best] <= STANDARD_ERRORS * doubt

    law_name = next(name for name in simple if as_good(name))
    return TargetChoice(
        target=target,
        law=law_name,
        reason=_reason(law_name, best, simple, misses, noise),
        scores={
            name: Score(100 * float(np.mean(found)), 100 * _error(found), count)
            for name, (found, count) in errors.items()
        },
        left_out=contest.left_out,
        mixtures=len(misses[best]),
        seed_noise_percent=noise,
    )


def _error(values: Array) -> float:
    """Standard error of a mean over mixtures."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def _reason(
    chosen: str, best: str, simple: Sequence[str], misses: Mapping[str, Array],
    noise: float | None,
) -> str:  # fmt: skip
    """The choice in words: against the best law, or if it is that, the best of simpler ones."""
    text = f"{chosen}: held-out {_shown(misses[chosen])}"
    rivals = simple[: simple.index(chosen)] or [name for name in simple if name != chosen]
    if best != chosen:
        rivals = [best]
    other = min(rivals, key=lambda name: float(np.mean(misses[name])), default=None)
    if other is not None:
        difference = misses[other] - misses[chosen]
        text += (
            f" against {_shown(misses[other])} of {other}, difference "
            f"{100 * abs(float(np.mean(difference))):.2f} +- {100 * _error(difference):.2f} over "
            f"{len(difference)} mixtures"
        )
    if best != chosen:
        text += ", not clearly better, so the law with fewer parameters"
    elif other is not None and float(np.mean(misses[other])) < float(np.mean(misses[chosen])):
        text += ", but the better law over all targets"
    return text if noise is None else f"{text}; seeds differ by {noise:.2g}%"


def _shown(misses: Array) -> str:
    return f"{100 * float(np.mean(misses)):.2f}%"
