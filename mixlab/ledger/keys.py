"""API keys in SQL: made, checked, rotated, revoked; their secrets are never stored.

    mlk_<number of the key>_<256 random bits>

The ledger holds the SHA-256 of the secret. A password's hash must be slow, since passwords can
be guessed; nobody guesses 256 bits.

An unknown number and a wrong secret take the same way to the same answer: one query for the
number and the hash together, which finds no row.
"""

import hashlib
import re
import secrets
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, and_, insert, or_, select, update

from mixlab.errors import Conflict, UnknownKey
from mixlab.ledger.database import Database
from mixlab.ledger.records import ApiKey, Scope
from mixlab.ledger.schema import api_keys

_TOKEN = re.compile(r"mlk_([0-9a-f]{24})_([0-9a-f]{64})")
_SECRET = ("secret_sha256", "previous_sha256", "previous_until")
_RECORD = [column for column in api_keys.c if column.name not in _SECRET]
NOTED_EVERY = timedelta(minutes=1)  # a use: not every request shall write


class Keys:
    """The API keys of a ledger."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def create(
        self,
        name: str,
        scopes: tuple[Scope, ...],
        *,
        expires_at: datetime | None = None,
        max_active_jobs: int | None = None,
    ) -> tuple[ApiKey, str]:
        """A new key, and its token: the only time that it is shown."""
        secret, key_id = secrets.token_hex(32), self._db.ids.new("key")
        values = {
            "id": key_id, "name": name, "scopes": [scope.value for scope in scopes],
            "secret_sha256": _digest(secret), "max_active_jobs": max_active_jobs,
            "expires_at": expires_at, "created_at": self._db.now(),
        }  # fmt: skip
        row = self._db.write(
            lambda db: db.execute(insert(api_keys).values(**values).returning(*_RECORD)).one()
        )
        return _as_key(row), _token(key_id, secret)

    def check(self, token: str) -> ApiKey | None:
        """The key of a token that is valid now; None for any other text."""
        match = _TOKEN.fullmatch(token)
        if match is None:
            return None
        now = self._db.now()
        query = select(*_RECORD).where(*_opened_by(f"key_{match[1]}", _digest(match[2]), now))
        row = self._db.read(lambda db: db.execute(query).first())
        if row is None:
            return None
        if row.last_used_at is None or now - row.last_used_at > NOTED_EVERY:
            used = update(api_keys).where(api_keys.c.id == row.id).values(last_used_at=now)
            self._db.write(lambda db: db.execute(used))
        return _as_key(row)

    def rotate(self, key_id: str, *, grace: timedelta = timedelta()) -> tuple[ApiKey, str]:
        """A new secret for a key; the old one still opens within the grace.

        Raises UnknownKey, and Conflict for a key that was revoked.
        """
        secret = secrets.token_hex(32)
        values = {
            "previous_sha256": api_keys.c.secret_sha256,
            "previous_until": self._db.now() + grace,
            "secret_sha256": _digest(secret),
        }
        key, changed = self._change(key_id, values)
        if not changed:
            raise Conflict(f"The API key {key_id} was revoked at {key.revoked_at}; make a new one.")
        return key, _token(key_id, secret)

    def revoke(self, key_id: str) -> ApiKey:
        """End a key now; one that has ended stays so. Raises UnknownKey."""
        return self._change(key_id, {"revoked_at": self._db.now()})[0]

    def all(self) -> list[ApiKey]:
        """Every key that was ever made, oldest first."""
        query = select(*_RECORD).order_by(api_keys.c.id)
        return self._db.read(lambda db: [_as_key(row) for row in db.execute(query)])

    def exist(self) -> bool:
        """Whether a key was ever made; revoking the last one does not open the door."""
        return (
            self._db.read(lambda db: db.execute(select(api_keys.c.id).limit(1)).first()) is not None
        )

    def _change(self, key_id: str, values: dict[str, Any]) -> tuple[ApiKey, bool]:
        """The key, and whether it was changed: a revoked one is left as it is."""
        statement = update(api_keys).where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))

        def change(db: Any) -> tuple[Any, bool]:
            changed = db.execute(statement.values(**values).returning(*_RECORD)).first()
            if changed is not None:
                return changed, True
            return db.execute(select(*_RECORD).where(api_keys.c.id == key_id)).first(), False

        row, changed = self._db.write(change)
        if row is None:
            raise UnknownKey(f"There is no API key {key_id!r}; `mixlab keys list` shows all.")
        return _as_key(row), changed


def _opened_by(key_id: str, digest: str, now: datetime) -> list[Any]:
    """What holds of the row of a valid key: its secret or, within the grace, the one before."""
    keys = api_keys.c
    rotated = and_(keys.previous_sha256 == digest, keys.previous_until > now)
    return [
        keys.id == key_id,
        or_(keys.secret_sha256 == digest, rotated),
        keys.revoked_at.is_(None),
        or_(keys.expires_at.is_(None), keys.expires_at > now),
    ]


def _as_key(row: Row[Any]) -> ApiKey:
    values = {column.name: getattr(row, column.name) for column in _RECORD}
    return ApiKey(**values | {"scopes": tuple(Scope(scope) for scope in row.scopes)})


def _token(key_id: str, secret: str) -> str:
    return f"mlk_{key_id.removeprefix('key_')}_{secret}"


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
