"""Job `score`: the loss of each sequence of a part of what a training in rounds has read.

The training's own row says what it read; the model is that of a round that is over. A part that is
there is not made again, one that was stopped begins anew.
"""

from collections.abc import Mapping
from typing import Any

from mixlab.rounds.plan import Rounds
from mixlab.rounds.running import score_part
from workers.jobs.context import JobContext, Stopped
from workers.jobs.train import spec_of


def run(context: JobContext) -> Mapping[str, Any]:
    """Score the part. Raises Stopped for SIGTERM."""
    asked = context.job.payload
    record = context.ledger.run(str(asked["run_id"]))
    training = context.ledger.job(record.job_id).payload
    stage = f"score round {asked['round']}"

    def tell(done: int, steps: int) -> None:
        context.progress(stage, done / steps)

    with context.stoppable() as stop:
        done = score_part(
            spec_of(context.settings, training, record),
            Rounds(**training["rounds"]),
            int(asked["round"]),
            int(asked["part"]),
            stop=stop,
            progress=tell,
        )
    if not done:
        raise Stopped("Stopped by SIGTERM; the part begins anew.")
    return {"href": f"/trainings/{record.id}", "run_id": record.id}
