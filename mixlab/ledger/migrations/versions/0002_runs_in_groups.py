"""Several runs a job, told apart by label and seed."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("runs") as runs:
        runs.drop_constraint(op.f("uq_runs_job_id"), type_="unique")
        runs.create_unique_constraint(
            op.f("uq_runs_job_id_label_seed"), ["job_id", "label", "seed"]
        )


def downgrade() -> None:
    """Fails where a job has made several runs, which the older schema can't hold."""
    with op.batch_alter_table("runs") as runs:
        runs.drop_constraint(op.f("uq_runs_job_id_label_seed"), type_="unique")
        runs.create_unique_constraint(op.f("uq_runs_job_id"), ["job_id"])
