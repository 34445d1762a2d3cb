"""Owners, priorities, pauses, back-off and events of jobs; API keys; answered requests; workers."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ID = sa.String(40)
_TIME = sa.DateTime(timezone=True)
_OWNED = ("corpora", "jobs", "mixtures")


def upgrade() -> None:
    for table in _OWNED:
        op.add_column(table, sa.Column("owner", _ID))
        op.create_index(op.f(f"ix_{table}_owner_id"), table, ["owner", "id"])
    op.add_column("jobs", sa.Column("priority", sa.Integer, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("not_before", _TIME))
    op.add_column("jobs", sa.Column("pause_requested_at", _TIME))
    op.create_index("ix_jobs_next", "jobs", ["queue", "state", sa.text("priority DESC"), "id"])
    _job_events()
    # Each job has an event of its version: what brought it where it stands.
    op.execute(
        "INSERT INTO job_events (job_id, seq, at, event, data) SELECT id, version, "
        "coalesce(finished_at, started_at, created_at), state, '{}' FROM jobs"
    )
    _api_keys()
    _requests()
    _workers()


def downgrade() -> None:
    """Forgets what the older schema has no place for; a paused job is queued again."""
    for table in ("workers", "requests", "api_keys", "job_events"):
        op.drop_table(table)
    op.execute("UPDATE jobs SET state = 'queued', sent_at = NULL WHERE state = 'paused'")
    op.drop_index("ix_jobs_next", "jobs")
    for column in ("pause_requested_at", "not_before", "priority"):
        op.drop_column("jobs", column)
    for table in _OWNED:
        op.drop_index(op.f(f"ix_{table}_owner_id"), table)
        op.drop_column(table, "owner")


def _job_events() -> None:
    op.create_table(
        "job_events",
        sa.Column("job_id", _ID, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("event", sa.String(40), nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("job_id", "seq", name=op.f("pk_job_events")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_events_job_id_jobs")),
    )


def _api_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", _ID, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("secret_sha256", sa.String(64), nullable=False),
        sa.Column("previous_sha256", sa.String(64)),
        sa.Column("previous_until", _TIME),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("max_active_jobs", sa.Integer),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME),
        sa.Column("revoked_at", _TIME),
        sa.Column("last_used_at", _TIME),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
    )


def _requests() -> None:
    op.create_table(
        "requests",
        sa.Column("owner", _ID, nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("began_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("headers", sa.JSON),
        sa.Column("body", sa.Text),
        sa.PrimaryKeyConstraint("owner", "key", name=op.f("pk_requests")),
    )
    op.create_index(op.f("ix_requests_expires_at"), "requests", ["expires_at"])


def _workers() -> None:
    op.create_table(
        "workers",
        sa.Column("id", sa.String(200), nullable=False),
        sa.Column("host", sa.String(200), nullable=False),
        sa.Column("queue", sa.String(16), nullable=False),
        sa.Column("slots", sa.Integer, nullable=False),
        sa.Column("gpus", sa.JSON, nullable=False),
        sa.Column("version", sa.String(40), nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("beat_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
