"""Requests with an Idempotency-Key in the ledger."""

from collections.abc import Callable
from datetime import timedelta

from mixlab.ledger import Ledger
from mixlab.ledger.records import Answer
from mixlab.ledger.requests import ABANDONED_AFTER
from tests.ledger.clock import FakeClock
from tests.ledger.making import at_once

DAY = timedelta(days=1)
ME = ("key_alice", "k1")


def begin(ledger: Ledger, fingerprint: str = "f", who: tuple[str, str] = ME) -> Answer | None:
    return ledger.requests.begin(*who, fingerprint, keep=DAY)


def test_first_in_flight_and_answered(ledger: Ledger) -> None:
    assert begin(ledger) is None
    assert begin(ledger) == Answer("f", None, None, None)
    ledger.requests.answer(*ME, 202, {"Location": "/jobs/job_1"}, '{"id": "job_1"}')
    assert begin(ledger) == Answer("f", 202, {"Location": "/jobs/job_1"}, '{"id": "job_1"}')
    assert begin(ledger, "another body") == begin(ledger)  # which says whose it was


def test_each_owner_has_keys_of_its_own(ledger: Ledger) -> None:
    for who in (ME, ("key_bob", "k1"), ("", "k1"), ("key_alice", "k2")):
        assert begin(ledger, who=who) is None


def test_without_an_answer_worth_keeping_it_may_be_made_again_at_once(ledger: Ledger) -> None:
    begin(ledger)
    number = ledger.requests.number(*ME, keep=DAY)
    ledger.requests.reopen(*ME)
    assert begin(ledger, "another body") is not None
    assert begin(ledger) is None
    assert ledger.requests.number(*ME, keep=DAY) == number  # it makes nothing twice
    ledger.requests.answer(*ME, 202, {}, "")
    ledger.requests.reopen(*ME)
    assert begin(ledger) is not None


def test_each_key_has_a_number_of_its_own_as_long_as_it_lives(
    ledger: Ledger, clock: FakeClock
) -> None:
    def number(who: tuple[str, str]) -> str:
        begin(ledger, who=who)
        return ledger.requests.number(*who, keep=DAY)

    others = [("key_bob", "k1"), ("key_alice", "k2"), ("", "key_alice/k1")]
    numbers = [number(who) for who in (ME, *others)]
    assert len(set(numbers)) == 4
    assert all(len(each) == 24 and int(each, 16) for each in numbers)
    clock.advance(DAY.total_seconds())
    assert number(ME) not in numbers


def test_an_expired_key_is_as_new(ledger: Ledger, clock: FakeClock) -> None:
    begin(ledger)
    ledger.requests.answer(*ME, 202, {}, "")
    clock.advance(DAY.total_seconds() - 1)
    assert begin(ledger) is not None
    clock.advance(1)
    assert begin(ledger, "another body") is None


def test_one_whose_process_died_may_be_made_again(ledger: Ledger, clock: FakeClock) -> None:
    begin(ledger)
    clock.advance(ABANDONED_AFTER.total_seconds() - 1)
    assert begin(ledger) is not None
    clock.advance(1)
    assert begin(ledger, "another body") is not None  # not by another request
    assert begin(ledger) is None
    assert begin(ledger) is not None


def test_of_twenty_at_once_one_is_first(url: str) -> None:
    Ledger.open(url).close()
    for number in range(3):
        ask: Callable[[Ledger], Answer | None] = lambda mine, key=str(number): begin(  # noqa: E731
            mine, who=("key_alice", key)
        )
        assert at_once(url, [ask] * 20).count(None) == 1
