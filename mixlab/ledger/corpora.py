"""Corpora in SQL: what was registered, and what was measured of it."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, Select, select, update

from mixlab.errors import UnknownCorpus
from mixlab.ledger.engine import insert_unless_there
from mixlab.ledger.records import Corpus
from mixlab.ledger.schema import corpora


def _as_corpus(row: Row[Any]) -> Corpus:
    return Corpus(**row._asdict())


def add(db: Connection, values: Mapping[str, Any]) -> Corpus:
    """Insert a corpus of which nothing is measured yet, or find the one of that id."""
    statement = insert_unless_there(db, corpora).values(**values).returning(*corpora.c)
    row = db.execute(statement).first()
    if row is None:
        row = db.execute(select(corpora).where(corpora.c.id == values["id"])).one()
    return _as_corpus(row)


def find(db: Connection, corpus_id: str, owner: str | None = None) -> Corpus:
    """The corpus, if it is the owner's; None sees all. Raises UnknownCorpus."""
    row = db.execute(select(corpora).where(corpora.c.id == corpus_id)).first()
    if row is None or owner not in (None, row.owner):
        raise _unknown(corpus_id)
    return _as_corpus(row)


def page(db: Connection, limit: int, after: str | None, owner: str | None) -> list[Corpus]:
    """Corpora newest first, those older than the id `after`; of an owner, or all."""
    query: Select[Any] = select(corpora).order_by(corpora.c.id.desc()).limit(limit)
    if owner is not None:
        query = query.where(corpora.c.owner == owner)
    if after is not None:
        query = query.where(corpora.c.id < after)
    return [_as_corpus(row) for row in db.execute(query)]


def record(db: Connection, corpus_id: str, **values: Mapping[str, Any]) -> None:
    """Write what was measured. Raises UnknownCorpus."""
    statement = update(corpora).where(corpora.c.id == corpus_id).values(**values)
    if db.execute(statement.returning(corpora.c.id)).first() is None:
        raise _unknown(corpus_id)


def _unknown(corpus_id: str) -> UnknownCorpus:
    return UnknownCorpus(
        f"There is no corpus {corpus_id!r}; GET /corpora lists those there are, "
        "POST /corpora registers one."
    )
