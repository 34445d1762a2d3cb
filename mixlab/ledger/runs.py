"""Training runs, their observations, and mixtures in SQL.

A job makes at most one mixture, and one run for each label and seed (a job of
several proxy runs makes several): doing the job again, after a crash, finds
what it made before.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from sqlalchemy import Connection, Row, Select, select, update
from sqlalchemy.dialects import postgresql, sqlite

from mixlab.errors import InvalidLoss, UnknownMixture, UnknownRun
from mixlab.ledger.engine import insert_unless_there
from mixlab.ledger.records import MixtureRecord, Run, RunRole
from mixlab.ledger.schema import jobs, mixtures, observations, runs

_RUN = [column for column in runs.c if column.name != "created_at"]


def _as_runs(db: Connection, rows: Sequence[Row[Any]]) -> list[Run]:
    """Rows as records, with the observations of all of them from one query."""
    query = select(observations).where(observations.c.run_id.in_([row.id for row in rows]))
    found: dict[str, list[Mapping[str, Any]]] = {row.id: [] for row in rows}
    for each in db.execute(query.order_by(observations.c.step)):
        found[each.run_id].append(
            {"step": each.step, "tokens": each.tokens, "losses_nats": each.losses_nats}
        )
    return [_as_run(row, found[row.id]) for row in rows]


def _as_run(row: Row[Any], observed: Sequence[Mapping[str, Any]]) -> Run:
    values = row._asdict()
    values |= {"role": RunRole(row.role), "consumed": tuple(row.consumed)}
    return Run(**values, observations=tuple(observed))


def add(db: Connection, values: Mapping[str, Any]) -> Run:
    """Insert a run, or find the one that its job made before with that label and seed."""
    db.execute(insert_unless_there(db, runs).values(consumed=[], **values))
    same = [runs.c[name] == values[name] for name in ("job_id", "label", "seed")]
    return _as_runs(db, db.execute(select(*_RUN).where(*same)).all())[0]


def find(db: Connection, run_id: str, owner: str | None = None) -> Run:
    """The run, if its job is the owner's; None sees all. Raises UnknownRun."""
    query = select(*_RUN).where(runs.c.id == run_id)
    if owner is not None:
        query = query.join(jobs, jobs.c.id == runs.c.job_id).where(jobs.c.owner == owner)
    rows = db.execute(query).all()
    if not rows:
        raise _unknown(run_id)
    return _as_runs(db, rows)[0]


def of_job(db: Connection, job_id: str) -> list[Run]:
    """The runs that a job made, oldest first."""
    query = select(*_RUN).where(runs.c.job_id == job_id).order_by(runs.c.id)
    return _as_runs(db, db.execute(query).all())


def matching(
    db: Connection,
    corpus_id: str | None,
    role: RunRole | None,
    recipe: str | None,
    parent_job_id: str | None,
) -> list[Run]:
    """Runs oldest first; None matches all."""
    query: Select[Any] = select(*_RUN).order_by(runs.c.id)
    if corpus_id is not None:
        query = query.where(runs.c.corpus_id == corpus_id)
    if role is not None:
        query = query.where(runs.c.role == role)
    if recipe is not None:
        query = query.where(runs.c.recipe["name"].as_string() == recipe)
    if parent_job_id is not None:
        query = query.where(
            runs.c.job_id.in_(select(jobs.c.id).where(jobs.c.parent_id == parent_job_id))
        )
    return _as_runs(db, db.execute(query).all())


def observe(db: Connection, run_id: str, observation: Mapping[str, Any]) -> None:
    """Write one evaluation; a step that was measured before is replaced.

    A run that starts over after a crash measures its steps again; the last attempt's values
    belong together.
    """
    losses = dict(observation["losses_nats"])
    wrong = {name: loss for name, loss in losses.items() if not isfinite(loss) or loss <= 0}
    if wrong:
        raise InvalidLoss(
            f"Losses must be finite and above 0 nats, but step {observation['step']} has {wrong}; "
            "record a diverged run with an error instead."
        )
    values = {"tokens": int(observation["tokens"]), "losses_nats": losses}
    dialect: Any = sqlite if db.dialect.name == "sqlite" else postgresql
    statement = dialect.insert(observations).values(
        run_id=run_id, step=int(observation["step"]), **values
    )
    db.execute(statement.on_conflict_do_update(index_elements=["run_id", "step"], set_=values))


def finish(db: Connection, run_id: str, values: Mapping[str, Any]) -> None:
    """Write what the run consumed, its seconds, and its error if it diverged. Raises UnknownRun.

    The error of an attempt that was late changes nothing of a run that another one has finished.
    """
    statement = update(runs).where(runs.c.id == run_id)
    if values.get("error") is not None:
        statement = statement.where(runs.c.seconds.is_(None))
    if db.execute(statement.values(**values).returning(runs.c.id)).first() is None:
        find(db, run_id)


def _unknown(run_id: str) -> UnknownRun:
    return UnknownRun(f"There is no training run {run_id!r}.")


def add_mixture(db: Connection, values: Mapping[str, Any]) -> MixtureRecord:
    """Insert a mixture, or find the one of that id, or that its job made before."""
    if values["job_id"] is not None:
        job_owner = select(jobs.c.owner).where(jobs.c.id == values["job_id"])
        values = dict(values) | {"owner": db.scalar(job_owner)}
    statement = insert_unless_there(db, mixtures).values(**values).returning(*mixtures.c)
    row = db.execute(statement).first()
    if row is None:
        known = "id" if values["job_id"] is None else "job_id"
        row = db.execute(select(mixtures).where(mixtures.c[known] == values[known])).one()
    return MixtureRecord(**row._asdict())


def find_mixture(db: Connection, mixture_id: str, owner: str | None = None) -> MixtureRecord:
    """The mixture, if it is the owner's; None sees all. Raises UnknownMixture."""
    row = db.execute(select(mixtures).where(mixtures.c.id == mixture_id)).first()
    if row is None or owner not in (None, row.owner):
        raise UnknownMixture(
            f"There is no mixture {mixture_id!r}; POST /mixtures/fit makes one, and its job's "
            "result names it."
        )
    return MixtureRecord(**row._asdict())


def mixture_page(
    db: Connection, corpus_id: str | None, limit: int, after: str | None, owner: str | None
) -> list[MixtureRecord]:
    """Mixtures newest first, those older than the id `after`; of an owner, or all."""
    query: Select[Any] = select(mixtures).order_by(mixtures.c.id.desc()).limit(limit)
    if owner is not None:
        query = query.where(mixtures.c.owner == owner)
    if corpus_id is not None:
        query = query.where(mixtures.c.corpus_id == corpus_id)
    if after is not None:
        query = query.where(mixtures.c.id < after)
    return [MixtureRecord(**row._asdict()) for row in db.execute(query)]
