"""Scores between the rounds of a training: one child job a part, on the training's queue."""

from collections.abc import Mapping
from typing import Any

from mixlab.errors import MissingFile
from mixlab.ledger.records import Job, JobKind, JobState, Run
from mixlab.rounds.plan import Rounds
from mixlab.rounds.running import PARTS, unscored
from workers.jobs.context import JobContext
from workers.jobs.waiting import error_of


class ScoringJobs:
    """Has child jobs score rounds; `waiting` once parts are missing that jobs will make."""

    def __init__(self, context: JobContext, record: Run, rounds: Rounds) -> None:
        self.waiting = False
        self._context = context
        self._record = record
        self._rounds = rounds

    def __call__(self, number: int) -> bool:
        """Whether all parts of a round are there; jobs are submitted for those that aren't.

        Raises what a job met, where one has failed.
        """
        missing = self._missing(number)
        jobs = {part: self._submitted(number, part) for part in missing}
        for part, job in jobs.items():
            self._check(job, number, part)
        self.waiting = bool(jobs)
        return not jobs

    def _missing(self, number: int) -> list[int]:
        folder = self._context.settings.run_folder(self._record.id)
        return unscored(folder, self._rounds, number)

    def _submitted(self, number: int, part: int) -> Job:
        return self._context.submit_child(
            JobKind.SCORE,
            payload_of(self._record, number, part),
            queue=self._context.job.queue,
            key=f"score/round-{number}/part-{part}",
        )

    def _check(self, job: Job, number: int, part: int) -> None:
        which = f"Part {part + 1} of {PARTS} of the scores of round {number}"
        if job.state in (JobState.FAILED, JobState.CANCELLED):
            raise error_of(job, f"{which}: ")
        if job.state is JobState.SUCCEEDED and part in self._missing(number):
            raise MissingFile(
                f"{which} was made by {job.id}, but is not in the home folder "
                f"{self._context.settings.home}; let all workers have the same MIXLAB_HOME, and "
                "train again."
            )


def payload_of(record: Run, number: int, part: int) -> Mapping[str, Any]:
    """What a job `score` needs to know."""
    return {"run_id": record.id, "round": number, "part": part, "parts": PARTS}
