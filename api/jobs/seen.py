"""Jobs as pollers and streams are shown them: read together, and rendered once a version.

A job that a thousand clients follow is read once for all of them; one that has
not changed since is not even rendered again, however many children it has.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime

from fastapi.sse import format_sse_event

from api.batching import Batches
from api.jobs.progress import progress_of
from api.jobs.schemas import EventView, JobView
from mixlab.ledger.looks import Look
from mixlab.ledger.sql import Ledger

MOST_KEPT = 2000


@dataclass(frozen=True)
class Seen:
    """A job at one version of its own and its children's."""

    id: str
    version: str
    owner: str | None
    ended: bool
    state: str
    number: int  # of its own version: the highest that an event of it can have so far
    body: bytes  # its JobView as JSON

    @classmethod
    def of(cls, look: Look) -> "Seen":
        """The rendering of what the ledger shows."""
        job = look.job
        view = JobView.of(job, progress_of(job, look.children, now=datetime.now(UTC)))
        return cls(
            job.id, look.version, job.owner, job.state.terminal, job.state.value, job.version,
            view.model_dump_json().encode(),
        )  # fmt: skip


@dataclass(frozen=True)
class Told:
    """An event of a job, as a stream sends it."""

    number: int
    frame: bytes


class Views:
    """What is seen of jobs. Whether a caller may see it is the caller's question."""

    def __init__(self, ledger: Callable[[], Ledger], threads: Executor) -> None:
        self._ledger = ledger
        self._kept: OrderedDict[str, Seen] = OrderedDict()
        self._jobs = Batches(self._read_jobs, threads)
        self._events = Batches(self._read_events, threads)

    async def of(self, job_id: str) -> Seen | None:
        """The job as it is now; None where there is none."""
        return await self._jobs.get(job_id)

    async def events(self, job_id: str, after: int, up_to: int) -> list[Told]:
        """Its events with numbers above `after`, up to those of a version that was seen."""
        found = await self._events.get((job_id, after)) or []
        # Later ones belong to a version that is yet to be seen.
        return [told for told in found if told.number <= up_to]

    # Both run in one thread at a time each.

    def _read_jobs(self, ids: Collection[str]) -> Mapping[str, Seen]:
        ledger = self._ledger()
        versions = ledger.versions(ids)
        kept = {job_id: self._kept.get(job_id) for job_id in versions}
        found = {i: one for i, one in kept.items() if one and one.version == versions[i]}
        stale = [job_id for job_id in versions if job_id not in found]
        for look in ledger.looks.at(stale) if stale else ():
            found[look.job.id] = Seen.of(look)
        self._keep(found)
        return found

    def _keep(self, seen: Mapping[str, Seen]) -> None:
        for job_id, one in seen.items():
            self._kept[job_id] = one
            self._kept.move_to_end(job_id)
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)

    def _read_events(
        self, wanted: Collection[tuple[str, int]]
    ) -> Mapping[tuple[str, int], list[Told]]:
        least: dict[str, int] = {}
        for job_id, after in wanted:
            least[job_id] = min(after, least.get(job_id, after))
        told: dict[str, list[Told]] = {}
        for event in self._ledger().looks.news(least):
            view = EventView.of(event)
            frame = format_sse_event(
                data_str=view.model_dump_json(), event=event.event, id=str(event.seq)
            )
            told.setdefault(event.job_id, []).append(Told(event.seq, frame))
        return {
            (job_id, after): [one for one in told.get(job_id, ()) if one.number > after]
            for job_id, after in wanted
        }
