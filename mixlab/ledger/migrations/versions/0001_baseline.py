"""The first ledger: corpora, jobs, runs with observations, mixtures."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ID = sa.String(40)
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    _corpora()
    _jobs()
    _runs()
    _mixtures()


def downgrade() -> None:
    for table in ("mixtures", "observations", "runs", "jobs", "corpora"):
        op.drop_table(table)


def _corpora() -> None:
    op.create_table(
        "corpora",
        sa.Column("id", _ID, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("tokens", sa.JSON),
        sa.Column("entropy", sa.JSON),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_corpora")),
    )


def _jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", _ID, nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("queue", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("payload", sa.JSON, nullable=False),
        sa.Column("parent_id", _ID),
        sa.Column("key", sa.String(200)),
        sa.Column("stage", sa.Text),
        sa.Column("fraction", sa.Float, nullable=False),
        sa.Column("eta_seconds", sa.Float),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("worker", sa.String(200)),
        sa.Column("lease_until", _TIME),
        sa.Column("cancel_requested_at", _TIME),
        sa.Column("sent_at", _TIME),
        sa.Column("error", sa.JSON),
        sa.Column("result", sa.JSON),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("started_at", _TIME),
        sa.Column("finished_at", _TIME),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.ForeignKeyConstraint(["parent_id"], ["jobs.id"], name=op.f("fk_jobs_parent_id_jobs")),
    )
    op.create_index(op.f("ix_jobs_parent_id_key"), "jobs", ["parent_id", "key"], unique=True)
    op.create_index(op.f("ix_jobs_state_id"), "jobs", ["state", "id"])
    parentless = sa.text("parent_id IS NULL")
    op.create_index(
        "uq_jobs_key_of_parentless", "jobs", ["key"], unique=True,
        sqlite_where=parentless, postgresql_where=parentless,
    )  # fmt: skip


def _runs() -> None:
    op.create_table(
        "runs",
        sa.Column("id", _ID, nullable=False),
        sa.Column("job_id", _ID, nullable=False),
        sa.Column("corpus_id", _ID, nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("mixture", sa.JSON, nullable=False),
        sa.Column("recipe", sa.JSON, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("label", sa.String(200), nullable=False),
        sa.Column("consumed", sa.JSON, nullable=False),
        sa.Column("seconds", sa.Float),
        sa.Column("error", sa.JSON),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
        sa.UniqueConstraint("job_id", name=op.f("uq_runs_job_id")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_runs_job_id_jobs")),
        sa.ForeignKeyConstraint(
            ["corpus_id"], ["corpora.id"], name=op.f("fk_runs_corpus_id_corpora")
        ),
    )
    op.create_index(op.f("ix_runs_corpus_id"), "runs", ["corpus_id"])
    op.create_table(
        "observations",
        sa.Column("run_id", _ID, nullable=False),
        sa.Column("step", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("losses_nats", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "step", name=op.f("pk_observations")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_observations_run_id_runs")),
    )


def _mixtures() -> None:
    op.create_table(
        "mixtures",
        sa.Column("id", _ID, nullable=False),
        sa.Column("corpus_id", _ID),
        sa.Column("job_id", _ID),
        sa.Column("parent_id", _ID),
        sa.Column("proportions", sa.JSON, nullable=False),
        sa.Column("fit", sa.JSON),
        sa.Column("report", sa.JSON, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_mixtures")),
        sa.UniqueConstraint("job_id", name=op.f("uq_mixtures_job_id")),
        sa.ForeignKeyConstraint(
            ["corpus_id"], ["corpora.id"], name=op.f("fk_mixtures_corpus_id_corpora")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_mixtures_job_id_jobs")),
        sa.ForeignKeyConstraint(
            ["parent_id"], ["mixtures.id"], name=op.f("fk_mixtures_parent_id_mixtures")
        ),
    )
    op.create_index(op.f("ix_mixtures_corpus_id"), "mixtures", ["corpus_id"])
