"""Requests with an Idempotency-Key in SQL: who was first, and how it was answered.

Source: draft-ietf-httpapi-idempotency-key-header-07.
"""

import hashlib
from collections.abc import Mapping
from datetime import timedelta

from sqlalchemy import Connection, delete, select, update

from mixlab.ledger.database import Database
from mixlab.ledger.engine import insert_unless_there
from mixlab.ledger.records import Answer
from mixlab.ledger.schema import requests

# A request that is unanswered for so long died with its process.
ABANDONED_AFTER = timedelta(minutes=2)


class Requests:
    """The keyed requests of a ledger, by owner and key; the owner is "" where none is known."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def begin(self, owner: str, key: str, fingerprint: str, *, keep: timedelta) -> Answer | None:
        """None for the first request of that key, which must then end in `answer` or `reopen`.

        Else what is known of the first one. A key that expired, or whose request was abandoned
        with the same fingerprint, is as new.
        """
        now = self._db.now()
        values = {
            "owner": owner, "key": key, "fingerprint": fingerprint, "began_at": now,
            "expires_at": now + keep,
        }  # fmt: skip

        def begin(db: Connection) -> Answer | None:
            this = (requests.c.owner == owner, requests.c.key == key)
            db.execute(delete(requests).where(*this, requests.c.expires_at <= now))
            fresh = insert_unless_there(db, requests).values(**values).returning(requests.c.key)
            if db.execute(fresh).first() is not None:
                return None
            taken = (
                update(requests)
                .where(*this, requests.c.fingerprint == fingerprint, requests.c.status.is_(None))
                .where(requests.c.began_at <= now - ABANDONED_AFTER)
                .values(began_at=now)
                .returning(requests.c.key)
            )
            if db.execute(taken).first() is not None:
                return None
            row = db.execute(select(requests).where(*this)).first()
            if row is None:  # forgotten in between
                return begin(db)
            return Answer(row.fingerprint, row.status, row.headers, row.body)

        return self._db.write(begin)

    def number(self, owner: str, key: str, *, keep: timedelta) -> str:
        """The digits of an id (ids.py) for what the request under way makes.

        They are the same when it is made again after it was abandoned, so that nothing is made
        twice; and others once the key has expired, since then it means something new.
        """
        query = select(requests.c.expires_at).where(
            requests.c.owner == owner, requests.c.key == key
        )
        expires_at = self._db.read(lambda db: db.execute(query).scalar_one())
        micros = int((expires_at - keep).timestamp() * 1_000_000)
        return f"{micros:014x}{hashlib.sha256(f'{owner}/{key}'.encode()).hexdigest()[:10]}"

    def answer(
        self, owner: str, key: str, status: int, headers: Mapping[str, str], body: str
    ) -> None:
        """Keep how the first request was answered."""
        values = {"status": status, "headers": dict(headers), "body": body}
        statement = update(requests).where(requests.c.owner == owner, requests.c.key == key)
        self._db.write(lambda db: db.execute(statement.values(**values)))

    def reopen(self, owner: str, key: str) -> None:
        """The first request got no answer worth keeping: the same one may try again at once.

        It still has its number, since it may have made something before it failed.
        """
        this = (requests.c.owner == owner, requests.c.key == key, requests.c.status.is_(None))
        again = update(requests).where(*this).values(began_at=self._db.now() - ABANDONED_AFTER)
        self._db.write(lambda db: db.execute(again))
