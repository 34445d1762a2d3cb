"""The library's verbs in one call each; `mixlab.fit` and its kin are these.

A table is a path to CSV or Parquet, Observations, rows (a list of dictionaries) or a pandas
DataFrame with the columns of `mixlab/tables.py`, where NaN is a loss that was not measured.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mixlab.choosing import fit_auto
from mixlab.design import NextRuns, filling_mixtures
from mixlab.design import next_runs as propose
from mixlab.errors import InvalidBudget, InvalidTable
from mixlab.fitting import Fit
from mixlab.fitting import fit as fit_law
from mixlab.laws import AUTO
from mixlab.laws import law as law_named
from mixlab.mixture import Mixture
from mixlab.predictions import Prediction, predictions
from mixlab.questions import Question, constraints_from
from mixlab.runs import Observations
from mixlab.scoring import Scores
from mixlab.scoring import score as score_fit
from mixlab.solvers import DEFAULT_MAX_EPOCHS, Solution
from mixlab.tables import TableReport, from_columns, from_rows, read_table

CONSTRAINTS = ("lower", "upper", "max_epochs", "groups", "linear", "near", "repetition", "trust")
OBJECTIVE = ("weights", "kind", "reference_nats", "reference_mixture", "risk")
Table = Any  # str | Path | Observations | Sequence[Mapping] | pandas.DataFrame


def fit(
    table: Table, law: str = AUTO, *, share_floor: float | None = None, replicates: int = 0,
    profiles: bool = True,
) -> Fit:  # fmt: skip
    """A law fitted to every target of a table; with "auto" to each target the law that suits it.

    `replicates` asks for that many bootstrap refits, which regret and robust choices need;
    `profiles`, for careful intervals of vague parameters. Raises UnknownLaw, and as
    `mixlab.fitting.fit`.
    """
    if replicates != int(replicates) or replicates < 0:
        raise ValueError(f"replicates are a whole number of at least 0, not {replicates}")
    replicates, seen = int(replicates), observations_of(table)
    if law == AUTO:
        return fit_auto(seen, share_floor=share_floor, replicates=replicates, profiles=profiles)
    return fit_law(
        law_named(law), seen, share_floor=share_floor, replicates=replicates, profiles=profiles
    )


def solve(
    fit: Fit,
    *,
    budget_tokens: float | None = None,
    step: float | None = None,
    params: float | None = None,
    tokens_available: Mapping[str, float] | None = None,
    objective: Mapping[str, Any] | None = None,
    **constraints: Any,
) -> Solution:
    """The best mixture for a run of so many tokens, or of so many steps.

    `objective` and the constraints (`lower`, `upper`, `max_epochs`, `groups`, `linear`, `near`,
    `repetition`, `trust`) are as in `mixlab/questions.py`. Without budget and step, the last step
    observed counts. Raises as `mixlab.solvers.solve`.
    """
    at = step_of(fit, budget_tokens=budget_tokens, step=step)
    question = Question(
        at, budget_tokens, params, tokens_available, _aim(objective), _named(constraints)
    )
    return question.solved(fit)


def first_runs(
    domains: Sequence[str], *, count: int, seed: int = 0, **constraints: Any
) -> dict[str, Mixture]:
    """Mixtures to run first, far apart within the constraints of `solve`, by label."""
    limits = constraints_from(_named(constraints), None, None)
    return filling_mixtures(domains, count=count, constraints=limits, seed=seed)


def next_runs(
    fit: Fit,
    table: Table,
    *,
    count: int,
    budget_tokens: float | None = None,
    step: float | None = None,
    params: float | None = None,
    tokens_available: Mapping[str, float] | None = None,
    objective: Mapping[str, Any] | None = None,
    seed: int = 0,
    **constraints: Any,
) -> NextRuns:
    """The mixtures to run next to tell the optimum of `solve` best; `table` is the one fitted."""
    at = step_of(fit, budget_tokens=budget_tokens, step=step)
    question = Question(
        at, budget_tokens, params, tokens_available, _aim(objective), _named(constraints)
    )
    return propose(
        fit, observations_of(table), question.objective_for(fit), question.limits(),
        count=count, seed=seed,
    )  # fmt: skip


def _aim(objective: Mapping[str, Any] | None) -> Mapping[str, Any]:
    strange = sorted(set(objective or {}) - set(OBJECTIVE))
    if strange:
        raise TypeError(f"an objective has no {', '.join(strange)}; there are {OBJECTIVE}")
    return objective or {}


def _named(constraints: Mapping[str, Any]) -> dict[str, Any]:
    strange = sorted(set(constraints) - set(CONSTRAINTS))
    if strange:
        raise TypeError(f"no constraint is named {', '.join(strange)}; there are {CONSTRAINTS}")
    return {"max_epochs": DEFAULT_MAX_EPOCHS, **constraints}


def predict(
    fit: Fit,
    mixture: Mixture | Mapping[str, float],
    *,
    budget_tokens: float | None = None,
    step: float | None = None,
    params: float | None = None,
) -> dict[str, Prediction]:
    """Each target's loss under a mixture with its 95% prediction interval."""
    given = mixture if isinstance(mixture, Mixture) else Mixture(mixture)
    at = step_of(fit, budget_tokens=budget_tokens, step=step)
    return predictions(fit, given, at, params=params)


def score(
    train: Table, test: Table, *, law: str = AUTO, share_floor: float | None = None
) -> Scores:
    """Fit on one table, predict the other; see `mixlab/scoring.py`."""
    seen, wanted = observations_of(train), observations_of(test)

    def fitted() -> Fit:
        return fit(seen, law, share_floor=share_floor, profiles=False)

    return score_fit(fitted, wanted, law=law)


def step_of(
    fit: Fit, *, budget_tokens: float | None, step: float | None,
    tokens_per_step: float | None = None,
) -> float:  # fmt: skip
    """The step that is asked for: as given, where a budget is spent, or the last one observed."""
    if step is not None:
        if not step > 0:
            raise InvalidBudget(f"A step must be above 0, not {step}.")
        return step
    if budget_tokens is None:
        return fit.steps_seen[1]
    return fit.step_at(budget_tokens, tokens_per_step)


def observations_of(table: Table, *, report: TableReport | None = None) -> Observations:
    """What a table holds. Raises InvalidTable for what is no table, and as `read_table`."""
    if isinstance(table, Observations):
        return table
    if isinstance(table, str | Path):
        return read_table(table, report=report)
    if hasattr(table, "columns") and hasattr(table, "to_dict"):  # a DataFrame, without pandas
        names = [str(name) for name in table.columns]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise InvalidTable(f"The DataFrame names {', '.join(repeated)} more than once.")
        return from_columns({str(name): _cells(table[name]) for name in table}, report=report)
    if isinstance(table, Sequence) and all(isinstance(row, Mapping) for row in table):
        return from_rows(table, report=report)
    raise InvalidTable(
        f"A table is a path, Observations, rows or a DataFrame, not {type(table).__name__}."
    )


def _cells(series: Any) -> list[Any]:
    pairs = zip(series.tolist(), series.isna().tolist(), strict=True)
    return [None if missing else cell for cell, missing in pairs]
