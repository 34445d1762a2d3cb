"""What a training run tells, written into the ledger: progress, observations, its end."""

from collections.abc import Mapping
from typing import Any

from mixlab.errors import MixlabError
from mixlab.ledger.records import Run
from mixlab.training.events import Event
from workers.jobs.context import JobContext


class Recorder:
    """Takes the events of one run. Raises LeaseLost where another attempt has the job."""

    def __init__(self, context: JobContext, record: Run) -> None:
        self._context = context
        self._record = record
        self._done = context.job.fraction

    def __call__(self, event: Event) -> None:
        """Write what an event says."""
        if event["event"] == "progress":
            self._done = event["step"] / event["steps"]
            stage = event.get("stage", "train")
            self._context.progress(stage, self._done, eta_seconds=event["eta_seconds"])
        elif event["event"] == "stage":
            self._context.progress(event["stage"], self._done)
        elif event["event"] == "observation":
            self.observe(event)
        elif event["event"] == "ended":
            self.finish(event)

    def observe(self, seen: Mapping[str, Any]) -> None:
        """Write an evaluation; one that is there already is replaced."""
        kept = {name: seen[name] for name in ("step", "tokens", "losses_nats")}
        self._context.ledger.record_observation(self._record.id, kept)

    def finish(self, ended: Event) -> None:
        """Write the run's end."""
        # Again, because what an earlier attempt measured just before it was killed may be missing.
        for seen in ended["observations"]:
            self.observe(seen)
        self._context.ledger.finish_run(
            self._record.id, consumed=ended["consumed"], seconds=ended["seconds"]
        )

    def failed(self, problem: MixlabError) -> None:
        """Write what ended the run, such as a loss that is no number any more."""
        title = (type(problem).__doc__ or type(problem).__name__).splitlines()[0]
        error = {"type": problem.slug(), "title": title, "detail": str(problem)}
        self._context.ledger.finish_run(self._record.id, consumed=(), seconds=None, error=error)
