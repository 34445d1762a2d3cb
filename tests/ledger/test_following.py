"""What is shown to those who follow jobs, and what a repeated request makes."""

from datetime import timedelta

from mixlab.ledger import Ledger
from mixlab.ledger.records import JobKind, Queue
from mixlab.ledger.requests import ABANDONED_AFTER
from tests.ledger.clock import FakeClock

KEEP = timedelta(hours=24)


def test_a_look_has_the_version_that_versions_tell(ledger: Ledger) -> None:
    alone = ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)
    parent = ledger.submit(JobKind.FIT_MIXTURE, {"rows": [1] * 100}, queue=Queue.CPU)
    ids = [alone.id, parent.id, "job_none"]
    seen: list[dict[str, str]] = []

    def look() -> None:
        looks = ledger.looks.at(ids)
        assert {one.job.id: one.version for one in looks} == ledger.versions(ids)
        assert all(one.job.payload == {} for one in looks)
        seen.append(ledger.versions(ids))

    look()
    ledger.claim(parent.id, "w", 60)
    look()
    children = [
        ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU, parent_id=parent.id, key=str(number))
        for number in range(3)
    ]
    look()
    ledger.wait_for_children(parent.id, 1)
    ledger.claim(children[1].id, "w", 60)
    ledger.progress(children[1].id, 1, stage="train", fraction=0.5)
    look()
    assert len({versions[parent.id] for versions in seen}) == 4
    assert {versions[alone.id] for versions in seen} == {"1"}
    (family,) = [one for one in ledger.looks.at([parent.id])]
    assert [child.id for child in family.children] == [child.id for child in children]


def test_news_of_many_jobs_are_each_above_its_own_number(ledger: Ledger) -> None:
    jobs = [ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU) for _ in range(450)]
    for job in jobs[:3]:
        ledger.request_cancel(job.id)
    after = {job.id: 1 if number % 2 else 0 for number, job in enumerate(jobs)}
    found = [(event.job_id, event.event) for event in ledger.looks.news(after)]
    expected = [(jobs[0].id, "submitted"), (jobs[0].id, "cancelled"), (jobs[1].id, "cancelled"),
                (jobs[2].id, "submitted"), (jobs[2].id, "cancelled")]  # fmt: skip
    expected += [(job.id, "submitted") for job in jobs[4::2]]
    assert sorted(found) == sorted(expected)
    assert ledger.looks.news({}) == []


def test_a_request_made_again_after_it_was_abandoned_has_the_same_number(
    ledger: Ledger, clock: FakeClock
) -> None:
    requests = ledger.requests
    assert requests.begin("key_1", "k", "print", keep=KEEP) is None
    first = requests.number("key_1", "k", keep=KEEP)
    clock.now += ABANDONED_AFTER
    assert requests.begin("key_1", "k", "print", keep=KEEP) is None
    assert requests.number("key_1", "k", keep=KEEP) == first
    requests.reopen("key_1", "k")
    assert requests.begin("key_1", "k", "print", keep=KEEP) is None
    assert requests.number("key_1", "k", keep=KEEP) == first
    assert requests.begin("key_2", "k", "print", keep=KEEP) is None
    assert requests.number("key_2", "k", keep=KEEP) != first
    clock.now += KEEP
    assert requests.begin("key_1", "k", "other", keep=KEEP) is None
    assert requests.number("key_1", "k", keep=KEEP) > first


def test_an_answered_request_stays_answered(ledger: Ledger) -> None:
    requests = ledger.requests
    assert requests.begin("", "k", "print", keep=KEEP) is None
    requests.answer("", "k", 202, {"location": "/jobs/job_1"}, "{}")
    requests.reopen("", "k")
    again = requests.begin("", "k", "print", keep=KEEP)
    assert again is not None
    assert (again.status, again.body) == (202, "{}")


def test_what_is_added_under_a_number_is_added_once(ledger: Ledger) -> None:
    number = "0" * 24
    first, again = (ledger.add_corpus(name, {}, number=number) for name in ("a", "b"))
    assert (first.id, again) == (f"corpus_{number}", first)
    other = ledger.add_mixture(first.id, None, None, {"a": 1.0}, None, {})
    mixtures = [
        ledger.add_mixture(first.id, None, None, {"a": share}, None, {}, number=number)
        for share in (0.5, 0.7)
    ]
    assert mixtures[0] == mixtures[1]
    assert {one.id for one in ledger.mixtures()} == {other.id, f"mix_{number}"}
