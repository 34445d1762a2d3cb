"""What an API key's owner sees, and how much it may have under way."""

from collections.abc import Callable
from typing import Any

import pytest

from mixlab.errors import QuotaExceeded, Unknown
from mixlab.ledger import Ledger
from mixlab.ledger.records import Job, JobState, RunRole, Scope
from tests.ledger.making import at_once, claimed, submit

ALICE, BOB = "key_alice", "key_bob"


class Possessions:
    """One of each of an owner's things."""

    def __init__(self, ledger: Ledger) -> None:
        self.corpus = ledger.add_corpus("c", {})
        self.job = submit(ledger)
        place = (self.job.id, self.corpus.id, RunRole.PROXY, {"a": 1.0}, {"name": "tiny"})
        self.run = ledger.add_run(*place, 0, "natural")
        self.solved = ledger.add_mixture(self.corpus.id, self.job.id, None, {"a": 1.0}, None, {})
        self.given = ledger.add_mixture(None, None, None, {"a": 1.0}, None, {})


READS: dict[str, Callable[[Ledger, Possessions], Any]] = {
    "corpus": lambda ledger, own: ledger.corpus(own.corpus.id),
    "job": lambda ledger, own: ledger.job(own.job.id),
    "events": lambda ledger, own: ledger.events(own.job.id),
    "run": lambda ledger, own: ledger.run(own.run.id),
    "solved mixture": lambda ledger, own: ledger.mixture(own.solved.id),
    "given mixture": lambda ledger, own: ledger.mixture(own.given.id),
    "cancel": lambda ledger, own: ledger.request_cancel(own.job.id),
    "pause": lambda ledger, own: ledger.request_pause(own.job.id),
    "resume": lambda ledger, own: ledger.resume(own.job.id),
}


@pytest.mark.parametrize("read", READS)
def test_what_others_have_is_not_there(ledger: Ledger, read: str) -> None:
    own = Possessions(ledger.of(ALICE))
    with pytest.raises(Unknown):
        READS[read](ledger.of(BOB), own)
    assert ledger.job(own.job.id) == own.job  # nothing was cancelled or paused
    ends = read == "cancel"
    assert READS[read](ledger.of(None) if ends else ledger.of(ALICE), own)


def test_lists_hold_ones_own(ledger: Ledger) -> None:
    alice, bob, nobody = (Possessions(ledger.of(who)) for who in (ALICE, BOB, None))
    for who, own in ((ALICE, alice), (BOB, bob)):
        seen = ledger.of(who)
        assert [one.id for one in seen.jobs()] == [own.job.id]
        assert [one.id for one in seen.corpora()] == [own.corpus.id]
        assert [one.id for one in seen.mixtures()] == [own.given.id, own.solved.id]
        assert seen.jobs(state=JobState.RUNNING) == []
    assert len(ledger.jobs()) == len(ledger.corpora()) == 3
    assert len(ledger.mixtures()) == 6
    assert nobody.job.owner is None


def test_children_and_what_they_make_belong_to_who_asked_for_the_parent(ledger: Ledger) -> None:
    parent = claimed(ledger, submit(ledger.of(ALICE)))
    child = submit(ledger, parent_id=parent.id, key="a")  # by a worker, which sees everything
    assert child.owner == ALICE
    assert ledger.of(ALICE).job(child.id) == child
    made = ledger.add_mixture(None, child.id, None, {"a": 1.0}, None, {})
    assert made.owner == ALICE


def test_the_same_key_of_two_owners_makes_two_jobs(ledger: Ledger) -> None:
    jobs = [submit(ledger.of(who), key="k") for who in (ALICE, BOB, None)]
    assert len({job.id for job in jobs}) == 3
    assert [submit(ledger.of(who), key="k") for who in (ALICE, BOB, None)] == jobs


class TestQuota:
    def test_of_unfinished_jobs(self, ledger: Ledger) -> None:
        alice = ledger.of(ALICE)
        first, second = (submit(alice, max_active=2) for _ in range(2))
        with pytest.raises(QuotaExceeded, match="2 unfinished jobs"):
            submit(alice, max_active=2)
        assert len(alice.jobs()) == 2
        submit(ledger.of(BOB), max_active=2)
        alice.request_pause(first.id)
        with pytest.raises(QuotaExceeded):
            submit(alice, max_active=2)
        alice.request_cancel(second.id)
        submit(alice, max_active=2)

    def test_children_are_the_services_not_the_owners(self, ledger: Ledger) -> None:
        parent = claimed(ledger, submit(ledger.of(ALICE), max_active=1))
        for key in "abc":
            submit(ledger, parent_id=parent.id, key=key)
        with pytest.raises(QuotaExceeded):
            submit(ledger.of(ALICE), max_active=1)

    @pytest.mark.parametrize(("own", "default", "most"), [(3, 1, 3), (1, 3, 1), (None, 2, 2)])
    def test_of_the_key_comes_before_that_of_all(
        self, ledger: Ledger, own: int | None, default: int, most: int
    ) -> None:
        key, _ = ledger.keys.create("k", (Scope.WRITE,), max_active_jobs=own)
        mine = ledger.of(key.id)
        for _ in range(most):
            submit(mine, max_active=default)
        with pytest.raises(QuotaExceeded):
            submit(mine, max_active=default)

    def test_nobody_in_particular_has_none(self, ledger: Ledger) -> None:
        made = {submit(ledger, max_active=1).id for _ in range(3)}
        assert made == {job.id for job in ledger.jobs(state=JobState.QUEUED)}

    def test_the_same_request_again_is_no_job_more(self, ledger: Ledger) -> None:
        alice = ledger.of(ALICE)
        first = submit(alice, key="k", max_active=1)
        assert submit(alice, key="k", max_active=1) == first

    def test_holds_between_many_that_ask_at_once(self, url: str) -> None:
        ledger = Ledger.open(url)
        key, _ = ledger.keys.create("k", (Scope.WRITE,), max_active_jobs=3)

        def ask(mine: Ledger) -> Job | None:
            try:
                return submit(mine.of(key.id))
            except QuotaExceeded:
                return None

        asked = at_once(url, [ask] * 8)
        assert len([job for job in asked if job is not None]) == 3
        assert len(ledger.jobs()) == 3
        ledger.close()
