"""Choosing a law for every target: by held-out error, and the simplest that is as good.

    error of a law = mean over mixtures of the mean |predicted - observed| / observed of its rows,
                     each predicted by a fit that had not seen the mixture

What a target says of the laws and what all targets say of them count the same: a law's logarithmic
error on the target plus its mean excess over the best one elsewhere. With few mixtures a target's
own errors choose laws that happen to fit it (12 mixtures of Apple's table: 0.70% by them alone,
0.64% so).

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
from typing import Any

import numpy as np

from mixlab.choosing.competing import compete, in_one_unit, mixtures, suited, thinned
from mixlab.diagnostics import seed_noise
from mixlab.errors import InvalidTable, TooFewMixtures
from mixlab.fitting import Fit, fit
from mixlab.fitting.search import Robust
from mixlab.laws import LAWS, Law, law
from mixlab.mixture import Array
from mixlab.runs import Observations

STANDARD_ERRORS = 0.5
# The mean size of a normal deviate with a standard deviation of 1.
MEAN_DEVIATE = (2 / np.pi) ** 0.5


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

    Raises UnknownLaw, InvalidLoss, InvalidTable for a share floor that is no share, and
    TooFewMixtures where no law can be fitted to any target.
    """
    if share_floor is not None and not 0 < share_floor < 1:
        raise InvalidTable(f"A share floor must lie between 0 and 1, not {share_floor}.")
    named = [law(name) for name in laws] if laws else None
    seen = in_one_unit(observations, named)
    contenders, left_out = suited(seen, named)
    rows = thinned(seen)
    noise = seed_noise(seen)
    # All mixtures would tell laws apart more sharply than those that they compete on.
    sharper = (mixtures(rows) / mixtures(seen)) ** 0.5
    contests: dict[str, Contest] = {}
    lost: dict[str, str] = {}
    for name in seen.targets:
        if not _measured(seen, name):
            lost[name] = "no row has a loss of it"
            continue
        errors, why = compete(contenders, rows.only([name]), share_floor)
        why = {**left_out, **why}
        if errors:
            contests[name] = Contest(errors, why, _percent(noise.get(name), seen, name))
        else:
            lost[name] = "; ".join(f"{one}: {reason}" for one, reason in why.items())
    if not contests:
        counted = ", ".join(f"{name!r} {_measured(seen, name)}" for name in seen.targets[:10])
        raise TooFewMixtures(
            "No law can be fitted; most need 4 different mixtures or more, and so many were "
            f"measured: {counted}. Train proxy runs on more mixtures. Law by law: "
            f"{next(iter(lost.values()))}."
        )
    elsewhere = _elsewhere(list(contests.values()))
    chosen = {name: _chosen(name, one, elsewhere, sharper) for name, one in contests.items()}
    return Choice(chosen, lost)


def _measured(observations: Observations, target: str) -> int:
    column = observations.losses_nats[:, observations.targets.index(target)]
    return len(np.unique(observations.mixture_index()[~np.isnan(column)]))


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
    seen = in_one_unit(observations, [LAWS[name] for name in groups])
    fits = [
        fit(
            _whole(LAWS[name]), seen.only(targets),
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
        # A law that is undefined at a share of 0 has seen none of those.
        shares_seen={
            domain: (min(one.shares_seen[domain][0] for one in fits), most)
            for domain, (_, most) in fits[0].shares_seen.items()
        },
        notes=tuple(dict.fromkeys([note for one in fits for note in one.notes] + reasons)),
    )


def _whole(one: Law) -> Law:
    """The law with a process on its residuals, unless it sees no mixture or has trees there."""
    smooth = one.needs_mixture and one.residual is None
    return replace(one, residual="process") if smooth else one


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
