"""The next runs: those whose losses would tell most about where the optimum is.

Equally likely versions of the fit (draws.py) each have their own best mixture, a contender. What
matters is not how well losses are known, but the gaps between the objective at the contenders and
at the solution: they decide what a wrong choice costs. For draws b and gaps

    G_bc = objective_b(contender c) - objective_b(solution),   Y_bt = log loss of target t in a run,

a run with the noise sd_t, the law's misfit, is foreseen to cut the summed variance of the gaps by

    sum_c  Cov(G_c, Y)  (Cov(Y, Y) + diag sd^2)^-1  Cov(Y, G_c)

(Bayesian A-optimal design for the contrasts, Chaloner & Verdinelli 1995; over an ensemble as in
Whitaker & Hamill 2002). Runs are taken greedily: after each, the ensemble is conditioned on it.
Were the law right, the ends of the region would tell most. It may not be: so every other run is
one of the mixtures moved towards the solution, where a law that is made to fit is right where
it matters (EXPERIMENTS.md).

Expected regret: mean over b of objective_b(solution) - min_c objective_b(c).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mixlab.design.draws import misfit, with_draws
from mixlab.design.filling import labelled, shares_of
from mixlab.design.points import DISTINCT, distances, even, nearby, nearest
from mixlab.errors import InvalidMixture, InvalidTable, TooFewMixtures
from mixlab.fitting import Fit
from mixlab.laws import Mask
from mixlab.mixture import Array, Mixture
from mixlab.runs import Observations
from mixlab.solvers.constraints import Constraints
from mixlab.solvers.mixing import solve
from mixlab.solvers.objective import Objective, Score, score
from mixlab.solvers.problem import Problem, View, problem, view

DRAWS, POOL_DRAWS = 128, 64
EVEN, NEAR = 2048, 256  # mixtures all over the region, and near the solution
ANYWHERE = 512  # of those all over the region, that may be run; as many more are moved
OWN = 0.5  # of the law's misfit, as a variance, is the mixture's; the rest the run's
NEARER = 0.6  # of the way to the solution is left where mixtures are moved towards it
AFAR = 2.0  # times the solution's factor of trust, as far as first designs go
# How near to the best so far contenders are sought, in turn.
REFINEMENTS = (0.3, 0.1, 0.03)


@dataclass(frozen=True)
class NextRuns:
    """Mixtures to run next, and what they are expected to bring."""

    mixtures: dict[str, Mixture]  # "next-01", ..., the most telling first
    solution: Mixture  # what the fit would choose now
    expected_regret_nats: float  # of that choice
    expected_regret_after_nats: float  # after these runs, were their losses as predicted
    step: float  # of the runs, in the fit's step unit
    params: float | None  # of the runs' model, where the law sees it

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {
            "mixtures": {name: dict(one.proportions) for name, one in self.mixtures.items()},
            "solution": dict(self.solution.proportions),
            "expected_regret_nats": self.expected_regret_nats,
            "expected_regret_after_nats": self.expected_regret_after_nats,
            "step": self.step,
            "params": self.params,
        }


@dataclass(frozen=True)
class _Ensemble:
    """Losses of all draws: of the final run by the objective, of a proxy run by target."""

    final: View
    proxy: View
    score: Score
    noise: Array  # (target,), of log loss

    def objective(self, shares: Array) -> Array:
        """(draw, row)."""
        return self.score.each(self.final.losses(shares))

    def log_losses(self, shares: Array) -> Array:
        """Of a proxy run, (draw, row, target)."""
        return np.asarray(np.log(self.proxy.losses(shares)))


def next_runs(
    fit: Fit,
    observations: Observations,
    objective: Objective,
    constraints: Constraints | None = None,
    *,
    count: int,
    candidates: Sequence[Mixture] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> NextRuns:
    """The next `count` mixtures to run; see the module. `observations` are those fitted.

    Runs, and the mixtures that regret is against, may leave the shares seen farther than the
    solution may (AFAR): that is how those become more. The runs are taken to be as long as the
    longest observed run of the smallest size. Without `candidates` every such mixture under the
    constraints may be chosen. Raises as `solve` does, TooFewMixtures for a count below 1 or too few
    candidates, and InvalidTable for observations of another fit.
    """
    _check(count, draws)
    constraints = constraints or Constraints()
    solution = solve(fit, objective, constraints).mixture
    constraints = _beyond(constraints)
    best = solution.shares(fit.domains)[None, :]
    drawn = with_draws(fit, observations, draws, seed)
    found = problem(fit, [replace(objective, risk=None)], constraints)
    step, params = _proxy(fit, observations)
    ensemble = _ensemble(drawn, objective, constraints, step, params)
    free = _free(found, best, seed)
    contenders = _contenders(ensemble, np.concatenate([best, free]), seed)
    offered, nearer = _offered(candidates, fit.domains, contenders, free, best)
    gaps = ensemble.objective(np.concatenate([best, contenders]))
    rows = shares_of(offered, fit.domains)
    new = np.flatnonzero(_new(ensemble, rows, observations))
    made = len(np.unique(observations.mixture_index()))
    chosen, after = _greedy(
        rows[new], ensemble.log_losses(rows[new]), gaps, ensemble.noise,
        [_either(nearer[new], turn % 2 == 0) for turn in range(made, made + count)],
    )  # fmt: skip
    return NextRuns(
        mixtures=labelled("next", [offered[new[index]] for index in chosen]),
        solution=solution,
        expected_regret_nats=_regret(gaps),
        expected_regret_after_nats=_regret(after),
        step=step,
        params=params,
    )


def next_of(
    fit: Fit,
    observations: Observations,
    objective: Objective,
    pool: Sequence[Mixture],
    *,
    count: int,
    draws: int = POOL_DRAWS,
    seed: int = 0,
) -> NextRuns:
    """The next `count` runs where the answer, too, must be one of the pool's mixtures.

    Then a run tells more than the law: half of what the law misses (OWN) is taken to be the
    mixture's own, which running it shows. So those are run that may be the best themselves: the
    first half by the fit, the others by draws (Thompson 1933). `solution` is the best of those
    not run yet, by the fit. Raises as `next_runs`.
    """
    _check(count, draws)
    drawn = with_draws(fit, observations, draws, seed)
    step, params = _proxy(fit, observations)
    ensemble = _ensemble(drawn, objective, Constraints(), step, params)
    everything = shares_of(pool, fit.domains)
    new = np.flatnonzero(_new(ensemble, everything, observations))
    if len(new) < count:
        raise TooFewMixtures(f"The pool holds {len(new)} mixtures to run, fewer than {count}.")
    rows = everything[new]
    logs = ensemble.log_losses(rows)
    own = np.random.default_rng((seed, 3)).standard_normal(logs.shape)
    own *= OWN**0.5 * ensemble.noise
    numbers = ensemble.score.each(ensemble.final.losses(rows) * np.exp(own))
    best = int(np.argmin(ensemble.objective(rows).mean(axis=0)))
    gaps = numbers[:, [best, *np.argmin(numbers, axis=1)]]
    chosen = _promising(ensemble.objective(rows).mean(axis=0), numbers, count)
    after = _after(logs + own, gaps, (1 - OWN) ** 0.5 * ensemble.noise, chosen)
    return NextRuns(
        mixtures=labelled("next", [pool[new[index]] for index in chosen]),
        solution=pool[new[best]],
        expected_regret_nats=_regret(gaps),
        expected_regret_after_nats=_regret(after),
        step=step,
        params=params,
    )


def _check(count: int, draws: int) -> None:
    if count < 1:
        raise TooFewMixtures(f"The next runs must be at least 1, not {count}.")
    if draws < 8:
        raise TooFewMixtures(f"Uncertainty needs at least 8 draws, not {draws}.")


def _beyond(constraints: Constraints) -> Constraints:
    """With ranges for runs, which look where a solution may not go yet."""
    return replace(constraints, trust=constraints.trust and AFAR * constraints.trust)


def _new(ensemble: _Ensemble, rows: Array, seen: Observations) -> Array:
    """Whether each candidate differs from all runs so far, and the laws are defined there."""
    with np.errstate(all="ignore"):
        defined = np.isfinite(ensemble.log_losses(rows)).all(axis=(0, 2))
    return np.asarray(defined & (nearest(rows, seen.proportions) >= DISTINCT))


def _proxy(fit: Fit, seen: Observations) -> tuple[float, float | None]:
    """Step and size of the next runs: the longest among the smallest observed."""
    steps = seen.tokens if fit.step_unit == "tokens" else seen.steps
    if np.isnan(seen.params).any():
        return float(steps.max()), None
    smallest = float(seen.params.min())
    return float(steps[seen.params == smallest].max()), smallest


def _ensemble(
    drawn: Fit, objective: Objective, constraints: Constraints, step: float, params: float | None
) -> _Ensemble:
    names = tuple(drawn.targets)
    weighing = objective.weighted(names)
    at_proxy = replace(objective, step=step, params=params)
    plain = replace(constraints, repetition=None)  # proxy runs repeat nothing
    views = [
        one.only(weighing).stacked
        for one in (view(drawn, objective, constraints), view(drawn, at_proxy, plain))
    ]
    final, proxy = views
    if final is None or proxy is None:
        raise InvalidTable("The fit has no targets to tell an optimum by; fit some first.")
    noise = np.array([misfit(drawn.targets[name]) for name in weighing])
    return _Ensemble(final, proxy, score(objective, names), noise)


def _free(found: Problem, best: Array, seed: int) -> Array:
    """Mixtures all over the region, and around the solution."""
    spread = even(found.region, EVEN + NEAR, seed, found.start)
    return np.concatenate([spread[:EVEN], nearby(best, spread[EVEN:], 0.02, seed)])


def _contenders(ensemble: _Ensemble, points: Array, seed: int) -> Array:
    """The best mixture of every draw, (draw, domain), sought ever nearer to the best so far."""
    best = points[np.argmin(ensemble.objective(points), axis=1)]
    for turn, least in enumerate(REFINEMENTS):
        near = nearby(best, points[-2 * NEAR :], least, seed + turn + 1)
        tried = np.concatenate([best, near])
        best = tried[np.argmin(ensemble.objective(tried), axis=1)]
    return np.asarray(best)


def _offered(
    candidates: Sequence[Mixture] | None,
    domains: tuple[str, ...],
    contenders: Array,
    free: Array,
    best: Array,
) -> tuple[list[Mixture], Mask]:
    """What may be run, and which of it was moved towards the solution."""
    if candidates is not None:
        if not candidates:
            raise InvalidMixture("There are no candidates; give some, or None for any mixture.")
        return list(candidates), np.zeros(len(candidates), dtype=bool)
    wide = np.concatenate([contenders, free[:ANYWHERE]])
    near = best + NEARER * (free[ANYWHERE : 2 * ANYWHERE] - best)
    nearer = np.arange(len(wide) + len(near)) >= len(wide)
    return [Mixture.of(domains, row) for row in np.concatenate([wide, near])], nearer


def _either(nearer: Mask, turn: bool) -> Mask:
    """Those moved towards the solution, or the others, as its turn is; all where none were."""
    return nearer == turn if nearer.any() else ~nearer


def _promising(predicted: Array, numbers: Array, count: int) -> list[int]:
    """Half of them the best by the fit, the others the best of one draw each.

    `predicted` are (candidate,), `numbers` (draw, candidate).
    """
    chosen = [int(index) for index in np.argsort(predicted, kind="stable")[: (count + 1) // 2]]
    # Draws in turn, again and again where there are fewer of them than runs.
    for number in range(len(chosen), count):
        drawn = numbers[number % len(numbers)].copy()
        drawn[chosen] = np.inf
        chosen.append(int(np.argmin(drawn)))
    return chosen


def _regret(gaps: Array) -> float:
    """Of the first column, the solution, against the best of each draw."""
    return float(np.mean(gaps[:, 0] - gaps.min(axis=1)))


def _greedy(
    offered: Array, logs: Array, objective: Array, deviation: Array, open_: Sequence[Mask]
) -> tuple[list[int], Array]:
    """Numbers of the chosen candidates, and the gaps to the solution that they leave.

    `logs` are the candidates' log losses, (draw, candidate, target), `deviation` a run's own,
    (target,), and `open_` the candidates that each run may be one of.
    """
    told = objective - objective[:, :1]
    gaps, seen = _centred(told), _centred(logs)
    noise = deviation**2
    apart: Mask = np.ones(len(offered), dtype=bool)
    chosen: list[int] = []
    for asked in open_:
        if not (apart & asked).any():
            raise TooFewMixtures(
                f"Only {len(chosen)} of the candidates differ from each other and from the runs "
                f"observed, and {len(open_)} next runs were asked for; give more candidates or "
                "ask for fewer."
            )
        worth = np.where(apart & asked, reductions(gaps, seen, noise), -np.inf)
        best = int(np.argmax(worth))
        chosen.append(best)
        apart &= distances(offered, offered[best]) >= DISTINCT
        gaps, seen = condition(gaps, seen, best, noise)
    return chosen, gaps + told.mean(axis=0)


def _after(logs: Array, objective: Array, deviation: Array, chosen: Sequence[int]) -> Array:
    """The gaps to the solution that the chosen runs leave, as `_greedy`."""
    told = objective - objective[:, :1]
    gaps, seen = _centred(told), _centred(logs[:, chosen])
    for index in range(len(chosen)):
        gaps, seen = condition(gaps, seen, index, deviation**2)
    return np.asarray(gaps + told.mean(axis=0))


def reductions(gaps: Array, seen: Array, noise: Array) -> Array:
    """By how much each candidate's run would cut the summed variance of the gaps, (candidate,).

    Deviations from the mean draw: gaps (draw, gap), seen (draw, candidate, target); noise
    variances (candidate, target), or (target,) for all alike.
    """
    draws = len(gaps) - 1
    runs = seen.transpose(1, 2, 0)
    size = runs.shape[1]
    own = runs @ runs.transpose(0, 2, 1) / draws + np.eye(size) * noise[..., None, :]
    shared = runs @ gaps / draws
    return np.asarray(np.sum(shared * np.linalg.solve(own, shared), axis=(1, 2)))


def condition(gaps: Array, seen: Array, run: int, noise: Array) -> tuple[Array, Array]:
    """The deviations after a run of that candidate: one target's loss after the other."""
    draws, candidates, targets = seen.shape
    everything = np.concatenate([gaps, seen.reshape(draws, -1)], axis=1)
    for target in range(targets):
        told = everything[:, gaps.shape[1] + run * targets + target].copy()
        total = told @ told / (draws - 1) + noise[target]
        # The part of the gain that leaves deviations with the right variance (Whitaker & Hamill).
        part = 1 / (1 + np.sqrt(noise[target] / total))
        everything -= np.outer(told, part * (told @ everything) / ((draws - 1) * total))
    after = everything[:, gaps.shape[1] :].reshape(draws, candidates, targets)
    return everything[:, : gaps.shape[1]], after


def _centred(values: Array) -> Array:
    return np.asarray(values - values.mean(axis=0))
