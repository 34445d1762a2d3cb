"""API keys in the ledger."""

from datetime import timedelta

import pytest
from sqlalchemy import create_engine, text

from mixlab.errors import Conflict, UnknownKey
from mixlab.ledger import Ledger
from mixlab.ledger.records import Scope
from tests.ledger.clock import FakeClock

READ = (Scope.READ,)


def test_a_token_opens_its_key(ledger: Ledger) -> None:
    key, token = ledger.keys.create("ci", (Scope.READ, Scope.WRITE), max_active_jobs=5)
    assert token.startswith(f"mlk_{key.id.removeprefix('key_')}_")
    assert ledger.keys.check(token) == key
    assert (key.scopes, key.max_active_jobs) == ((Scope.READ, Scope.WRITE), 5)
    assert [each.id for each in ledger.keys.all()] == [key.id]


def test_no_secret_is_stored(ledger: Ledger, url: str) -> None:
    _, token = ledger.keys.create("ci", READ)
    secret = token.rpartition("_")[2]
    engine = create_engine(url)
    with engine.connect() as db:
        stored = repr(db.execute(text("SELECT * FROM api_keys")).all())
    engine.dispose()
    assert secret not in stored
    assert token not in stored


def test_no_other_text_opens_one(ledger: Ledger) -> None:
    key, token = ledger.keys.create("ci", READ)
    _, other = ledger.keys.create("other", READ)
    number, secret = token.split("_")[1:]
    wrong = [
        "", "mlk", token[:-1], token + "0", token.upper(), f" {token}", f"{token}\n",
        f"mlk_{number}_{other.split('_')[2]}",  # another key's secret
        f"mlk_{number}_{'0' * 64}", f"mlk_{'0' * 24}_{secret}", f"mlk_{number}_{secret}'--",
        key.id, secret, "mlk_" + "9" * 10_000,
    ]  # fmt: skip
    assert [text for text in wrong if ledger.keys.check(text)] == []


def test_expiry(ledger: Ledger, clock: FakeClock) -> None:
    _, token = ledger.keys.create("ci", READ, expires_at=clock.now + timedelta(days=1))
    clock.advance(86_399)
    assert ledger.keys.check(token) is not None
    clock.advance(1)
    assert ledger.keys.check(token) is None


def test_rotation_with_a_grace(ledger: Ledger, clock: FakeClock) -> None:
    key, first = ledger.keys.create("ci", READ)
    _, second = ledger.keys.rotate(key.id, grace=timedelta(hours=1))
    assert ledger.keys.check(first) is not None
    assert ledger.keys.check(second) is not None
    clock.advance(3600)
    assert ledger.keys.check(first) is None
    assert ledger.keys.check(second) is not None
    _, third = ledger.keys.rotate(key.id)  # at once
    assert ledger.keys.check(second) is None
    assert ledger.keys.check(third) is not None
    with pytest.raises(UnknownKey, match="key_none"):
        ledger.keys.rotate("key_none")


def test_a_revoked_key_stays_revoked(ledger: Ledger, clock: FakeClock) -> None:
    assert not ledger.keys.exist()
    key, token = ledger.keys.create("ci", READ)
    revoked = ledger.keys.revoke(key.id)
    assert ledger.keys.check(token) is None
    clock.advance(60)
    assert ledger.keys.revoke(key.id) == revoked  # at the time of the first
    with pytest.raises(Conflict, match="revoked"):
        ledger.keys.rotate(key.id, grace=timedelta(days=1))
    assert ledger.keys.check(token) is None
    assert ledger.keys.exist()  # and the door stays locked
    with pytest.raises(UnknownKey):
        ledger.keys.revoke("key_none")


def test_the_last_use_is_noted_once_a_minute(ledger: Ledger, clock: FakeClock) -> None:
    _, token = ledger.keys.create("ci", READ)

    def used() -> object:
        ledger.keys.check(token)
        (key,) = ledger.keys.all()
        return key.last_used_at

    first = used()
    assert first == clock.now
    clock.advance(30)
    assert used() == first
    clock.advance(31)
    assert used() == clock.now
