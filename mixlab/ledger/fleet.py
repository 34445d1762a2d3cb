"""Workers in SQL: who is there, and when each was last alive.

A process that runs is not yet one that works: a worker that lost its broker looks alive from
outside. So each writes a row from the loop that takes messages, and its health is the row's age.
"""

from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, delete, select, update

from mixlab.ledger.database import Database
from mixlab.ledger.engine import insert_unless_there
from mixlab.ledger.records import Queue, Worker
from mixlab.ledger.schema import workers


class Fleet:
    """The workers of a ledger."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def beat(
        self, worker_id: str, *, host: str, queue: Queue, slots: int, version: str,
        gpus: tuple[dict[str, Any], ...] = (),
    ) -> None:  # fmt: skip
        """Say that a worker is alive, for the first time or again."""
        now = self._db.now()
        row = {
            "id": worker_id, "host": host, "queue": queue, "slots": slots, "gpus": list(gpus),
            "version": version, "started_at": now, "beat_at": now,
        }  # fmt: skip

        def beat(db: Connection) -> None:
            now_so = {"beat_at": now, "gpus": row["gpus"]}
            again = update(workers).where(workers.c.id == worker_id).values(**now_so)
            if db.execute(again.returning(workers.c.id)).first() is None:
                db.execute(insert_unless_there(db, workers).values(**row))

        self._db.write(beat)

    def workers(self) -> list[Worker]:
        """All that ever beat and were not forgotten, by id."""
        query = select(workers).order_by(workers.c.id)

        def read(db: Connection) -> list[Worker]:
            rows = [row._asdict() for row in db.execute(query)]
            return [
                Worker(**row | {"queue": Queue(row["queue"]), "gpus": tuple(row["gpus"])})
                for row in rows
            ]

        return self._db.read(read)

    def heard(self, within: timedelta) -> dict[Queue, int]:
        """How many workers of each queue were alive lately, by the ledger's clock."""
        since = self._db.now() - within
        alive = [worker.queue for worker in self.workers() if worker.beat_at >= since]
        return {queue: alive.count(queue) for queue in Queue}

    def worker(self, worker_id: str) -> Worker | None:
        """The worker of that id."""
        return next((one for one in self.workers() if one.id == worker_id), None)

    def forget(self, worker_id: str) -> None:
        """A worker that has stopped, and said so; those that fell silent go after a day."""
        self._db.write(lambda db: db.execute(delete(workers).where(workers.c.id == worker_id)))
