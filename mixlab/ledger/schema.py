"""The ledger's tables, for SQLite and PostgreSQL alike.

Times are UTC. JSON holds what is read whole and never searched; what a query
filters or orders by has a column. Ids carry their kind and sort by creation
time (ids.py), so that "newest first" and a page's cursor are both the id.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)

# Every constraint has a name, because SQLite's batch migrations and PostgreSQL drop them by name.
NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, kept in UTC; SQLite has no zones, so there it is stored without one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Aware to UTC; naive values are refused, since nobody knows what they mean."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone; the ledger takes aware times only.")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """What was stored, aware and in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _json(name: str, *, required: bool = False) -> Column[Any]:
    return Column(name, JSON(none_as_null=True), nullable=not required)


def _owner() -> Column[Any]:
    """Id of the API key that asked for it; null where none was needed.

    No foreign key: keys are revoked, never deleted, and a ledger restored without them still
    knows what belongs together.
    """
    return Column("owner", String(40))


metadata = MetaData(naming_convention=NAMING)

corpora = Table(
    "corpora",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("name", String(200), nullable=False),
    _json("spec", required=True),
    _json("tokens"),
    _json("entropy"),
    Column("created_at", UtcDateTime, nullable=False),
    _owner(),
    Index(None, "owner", "id"),  # an owner's list, newest first
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("kind", String(40), nullable=False),
    Column("queue", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    _json("payload", required=True),
    Column("parent_id", String(40), ForeignKey("jobs.id")),
    Column("key", String(200)),
    Column("stage", Text),
    Column("fraction", Float, nullable=False),
    Column("eta_seconds", Float),
    Column("attempt", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("worker", String(200)),
    Column("lease_until", UtcDateTime),
    Column("cancel_requested_at", UtcDateTime),
    Column("sent_at", UtcDateTime),  # when its id was last put on the broker; null asks for it
    _json("error"),
    _json("result"),
    Column("version", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    _owner(),
    Column("priority", Integer, nullable=False, server_default="0"),  # the highest goes first
    Column("not_before", UtcDateTime),  # null: at once
    Column("pause_requested_at", UtcDateTime),
    Index(None, "parent_id", "key", unique=True),
    # NULLs are distinct in SQL, so keys of jobs without a parent need an index of their own.
    Index(
        "uq_jobs_key_of_parentless",
        "key",
        unique=True,
        sqlite_where=text("parent_id IS NULL"),
        postgresql_where=text("parent_id IS NULL"),
    ),
    Index(None, "state", "id"),
    Index(None, "owner", "id"),
)
Index("ix_jobs_next", jobs.c.queue, jobs.c.state, jobs.c.priority.desc(), jobs.c.id)

# What happened to a job. The number is the job's version after it, so it rises and has gaps.
job_events = Table(
    "job_events",
    metadata,
    Column("job_id", String(40), ForeignKey("jobs.id"), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at", UtcDateTime, nullable=False),
    Column("event", String(40), nullable=False),
    _json("data", required=True),
)

runs = Table(
    "runs",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("job_id", String(40), ForeignKey("jobs.id"), nullable=False),
    Column("corpus_id", String(40), ForeignKey("corpora.id"), nullable=False, index=True),
    Column("role", String(16), nullable=False),
    _json("mixture", required=True),
    _json("recipe", required=True),
    Column("seed", BigInteger, nullable=False),
    Column("label", String(200), nullable=False),
    _json("consumed", required=True),
    Column("seconds", Float),
    _json("error"),
    Column("created_at", UtcDateTime, nullable=False),
    # A job of several proxy runs tells them apart so; done again, it finds each of them.
    UniqueConstraint("job_id", "label", "seed"),
)

observations = Table(
    "observations",
    metadata,
    Column("run_id", String(40), ForeignKey("runs.id"), primary_key=True),
    Column("step", BigInteger, primary_key=True, autoincrement=False),
    Column("tokens", BigInteger, nullable=False),
    _json("losses_nats", required=True),
)

mixtures = Table(
    "mixtures",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("corpus_id", String(40), ForeignKey("corpora.id"), index=True),
    Column("job_id", String(40), ForeignKey("jobs.id"), unique=True),
    Column("parent_id", String(40), ForeignKey("mixtures.id")),
    _json("proportions", required=True),
    _json("fit"),
    _json("report", required=True),
    Column("created_at", UtcDateTime, nullable=False),
    _owner(),
    Index(None, "owner", "id"),
)

# Secrets are random and long, so a plain SHA-256 of one can't be searched for.
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("secret_sha256", String(64), nullable=False),
    Column("previous_sha256", String(64)),  # of the secret before the last rotation
    Column("previous_until", UtcDateTime),
    _json("scopes", required=True),
    Column("max_active_jobs", Integer),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
    Column("last_used_at", UtcDateTime),
)

# Requests with an Idempotency-Key, and how they were answered.
requests = Table(
    "requests",
    metadata,
    Column("owner", String(40), primary_key=True),  # "" where no API key was needed
    Column("key", String(255), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("began_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
    Column("status", Integer),  # null while the first one is under way
    _json("headers"),
    Column("body", Text),
)

workers = Table(
    "workers",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("host", String(200), nullable=False),
    Column("queue", String(16), nullable=False),
    Column("slots", Integer, nullable=False),
    _json("gpus", required=True),  # [{"name", "uuid", "memory_bytes", "busy"}]
    Column("version", String(40), nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("beat_at", UtcDateTime, nullable=False),
)
