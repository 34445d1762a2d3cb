"""Published regressors, done again from their formulas, with the settings that they state.

    linear        loss = b + w . r                                        RegMix's first
    lightgbm      1,000 trees, learning rate 0.01, else the defaults      RegMix's second
    exponential   c + exp(t . r)                                          Ye et al., Olmix
    additive      E + 1 / sum_j C_j r_j^g_j + A / N^a + B / D^b           Apple
    joint         E + 1 / sum_j C_j r_j^g_j + A(r) / N^a + B(r) / D^b     Apple,
                  A(r) = (sum_j A_j r_j)^p, B(r) = (sum_j B_j r_j)^q

Sources: arXiv 2407.01492 and its notebook; arXiv 2403.16952, whose code Olmix (2602.12237) keeps
as its `log_linear`; arXiv 2507.09404, eq. 4 and 5. RegMix's notebook stops the trees early on the
test set; here they are all grown, so that nothing held out is seen. Ye et al. minimise a Huber loss
of 0.02 on the losses from 300 random starts; here 4. Apple minimises a Huber loss of 0.001 on the
logarithms. Minimised by SciPy. Laws of the mixture alone are fitted at each size and step
by itself.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from benchmarks.laws.scores import Prediction
from mixlab.runs import Observations

Regressor = Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]
TREES = {
    "objective": "regression",
    "learning_rate": 0.01,
    "seed": 42,
    "verbosity": -1,
    "num_threads": 1,
    "deterministic": True,
}
ROUNDS = 1000
STARTS = 4
TINY = 1e-12


@dataclass(frozen=True)
class PerPoint:
    """A regressor of the shares alone, fitted at each (size, step) of the training rows."""

    regressor: Regressor

    def can(self, train: Observations, test: Observations) -> str | None:
        """Why it can't predict `test`, or None."""
        if set(_points(test)) - set(_points(train)):
            return "sees no size and no step: it can't predict those it was not fitted at"
        return None

    def fit(self, train: Observations) -> "PerPointFit":
        """One regression for each target at each point."""
        models = {}
        for point, rows in _rows_by_point(train):
            for target in range(len(train.targets)):
                losses = train.losses_nats[rows, target]
                told = ~np.isnan(losses)
                shares = train.proportions[rows][told]
                models[point, target] = self.regressor(shares, losses[told])
        return PerPointFit(models)


@dataclass(frozen=True)
class PerPointFit:
    """Its regressions, by point and target."""

    models: dict[tuple[tuple[float, float], int], Callable[[np.ndarray], np.ndarray]]

    def predict(self, test: Observations) -> Prediction:
        """Each row by the regression of its point."""
        losses = np.full(test.losses_nats.shape, np.nan)
        for point, rows in _rows_by_point(test):
            for target in range(len(test.targets)):
                losses[rows, target] = self.models[point, target](test.proportions[rows])
        return Prediction(losses)


def linear(shares: np.ndarray, losses: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Ordinary least squares with an intercept; the shortest of equal solutions."""
    mean = losses.mean()
    weights = np.linalg.lstsq(shares, losses - mean)[0]
    return lambda at: mean + at @ weights


def lightgbm(shares: np.ndarray, losses: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """RegMix's boosted trees."""
    import lightgbm as trees

    grown = trees.train(TREES, trees.Dataset(shares, losses), num_boost_round=ROUNDS)
    return lambda at: np.asarray(grown.predict(at, num_threads=1))


def exponential(shares: np.ndarray, losses: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Ye et al.'s mixing law, k folded into t since shares sum to 1."""
    rng = np.random.default_rng(42)

    def model(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rising = np.exp(shares @ z[1:])
        floor = np.full((len(shares), 1), np.exp(z[0]))
        return np.exp(z[0]) + rising - losses, np.hstack([floor, rising[:, None] * shares])

    starts = [
        np.concatenate([[log_c], rng.uniform(-0.5, 0.5, shares.shape[1])])
        for log_c in np.linspace(-2, 1.5, STARTS)
    ]
    z = _minimised(model, starts, scale=0.02)
    return lambda at: np.exp(z[0]) + np.exp(at @ z[1:])


@dataclass(frozen=True)
class Apple:
    """The additive and the joint law over mixture, model size and tokens."""

    joint: bool

    def can(self, train: Observations, test: Observations) -> str | None:
        """Why it can't predict `test`, or None."""
        if np.isnan(train.params).any() or np.isnan(train.tokens).any():
            return "needs each run's size and tokens"
        return None

    def fit(self, train: Observations) -> "AppleFit":
        """Every target by itself, from two starts."""
        found = []
        for target in range(len(train.targets)):
            told = ~np.isnan(train.losses_nats[:, target])
            rows, losses = train.take(told), train.losses_nats[told, target]
            varied = (len(set(rows.params)) > 1, len(set(rows.tokens)) > 1)
            model, logs = _apple(rows, self.joint, varied), np.log(losses)

            def residuals(
                z: np.ndarray, model: AppleModel = model, logs: np.ndarray = logs
            ) -> tuple[np.ndarray, np.ndarray]:
                loss, slopes = model(z)
                return np.log(loss) - logs, slopes / loss[:, None]

            z = _minimised(residuals, self._starts(rows, losses), scale=0.001)
            found.append((varied, z))
        return AppleFit(self.joint, found)

    def _starts(self, rows: Observations, losses: np.ndarray) -> Iterable[np.ndarray]:
        domains = rows.proportions.shape[1]
        level = float(np.nanmean(losses))
        for share in (0.3, 0.6):
            # E, C_j, g_j, alpha, beta, then the numerators: A and B, or A_j, B_j, p, q.
            head = [
                np.log(share * level),
                *np.full(domains, np.log(4 / level)),
                *np.full(domains, np.log(0.3)),
            ]
            tail = [np.log(0.3), np.log(0.3)]
            if self.joint:
                tops = [*np.full(domains, 5.0), *np.full(domains, 6.0), 0.0, 0.0]
            else:
                tops = [5.0, 6.0]
            yield np.array([*head, *tail, *tops])


@dataclass(frozen=True)
class AppleFit:
    """Its estimates, one a target: what varied in the data, and the parameters."""

    joint: bool
    targets: list[tuple[tuple[bool, bool], np.ndarray]]

    def predict(self, test: Observations) -> Prediction:
        """The law at each row."""
        losses = [_apple(test, self.joint, varied)(z)[0] for varied, z in self.targets]
        return Prediction(np.stack(losses, axis=1))


AppleModel = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def _apple(rows: Observations, joint: bool, varied: tuple[bool, bool]) -> AppleModel:
    """Losses and slopes at the rows as a function of z, logarithms all.

    z is E, C_j, g_j, alpha, beta, and A, B or A_j, B_j, p, q. A term of what never varied is left
    to E.
    """
    shares = rows.proportions
    logs, domains = np.log(np.maximum(shares, TINY)), shares.shape[1]
    sizes = (np.log(rows.params), np.log(rows.tokens))

    def model(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        g = np.exp(z[1 + domains : 1 + 2 * domains])
        parts = np.exp(z[1 : 1 + domains] + g * logs)
        total = parts.sum(axis=1)
        loss, slopes = np.exp(z[0]) + 1 / total, np.zeros((len(shares), len(z)))
        slopes[:, 0] = np.exp(z[0])
        slopes[:, 1 : 1 + domains] = -parts / total[:, None] ** 2
        slopes[:, 1 + domains : 1 + 2 * domains] = slopes[:, 1 : 1 + domains] * g * logs
        for which in np.flatnonzero(varied):
            power = 1 + 2 * domains + which  # alpha or beta
            tops = power + 2 if not joint else 3 + 2 * domains + which * domains
            exponent = np.exp(z[power])
            if joint:
                ends = slice(tops, tops + domains)
                parts = np.exp(z[ends]) * shares
                total = parts.sum(axis=1)
                bend = np.exp(z[len(z) - 2 + which])
                term = np.exp(bend * np.log(total) - exponent * sizes[which])
                slopes[:, ends] = (term * bend / total)[:, None] * parts
                slopes[:, len(z) - 2 + which] = term * bend * np.log(total)
            else:
                term = np.exp(z[tops] - exponent * sizes[which])
                slopes[:, tops] = term
            slopes[:, power] = -term * exponent * sizes[which]
            loss = loss + term
        return loss, slopes

    return model


def _minimised(
    model: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    starts: Iterable[np.ndarray],
    *,
    scale: float,
) -> np.ndarray:
    """The best of the starts under a Huber loss of that scale; `model` gives residuals, slopes."""
    best = None
    for start in starts:
        with np.errstate(all="ignore"):
            found = least_squares(
                lambda z: model(z)[0], start, lambda z: model(z)[1], bounds=(-60, 60),
                loss="huber", f_scale=scale, max_nfev=200,
            )  # fmt: skip
        if best is None or found.cost < best.cost:
            best = found
    return best.x


def _points(rows: Observations) -> list[tuple[float, float]]:
    # Where the size is not told it is all one, 0.
    sizes = np.nan_to_num(rows.params)
    return list(zip(sizes.tolist(), rows.steps.tolist(), strict=True))


def _rows_by_point(rows: Observations) -> list[tuple[tuple[float, float], np.ndarray]]:
    found: dict[tuple[float, float], list[int]] = {}
    for row, point in enumerate(_points(rows)):
        found.setdefault(point, []).append(row)
    return [(point, np.array(at)) for point, at in found.items()]


PEERS = {
    "RegMix linear": PerPoint(linear),
    "RegMix LightGBM": PerPoint(lightgbm),
    "Ye et al. = Olmix log-linear": PerPoint(exponential),
    "Apple additive": Apple(joint=False),
    "Apple joint": Apple(joint=True),
}
