"""The fault suite in short: `make chaos` is the whole of it."""

from collections.abc import Iterator

import pytest

from benchmarks.faults import injuries
from benchmarks.faults.suite import run
from tests.ledger import postgres

pytestmark = [pytest.mark.service, pytest.mark.timeout(180)]

QUICK = {
    "MIXLAB_LEASE_SECONDS": "3",
    "MIXLAB_POLL_SECONDS": "0.2",
    "MIXLAB_SWEEP_SECONDS": "0.3",
    "MIXLAB_RESEND_AFTER_SECONDS": "3",
    "MIXLAB_MAX_FAILURES": "15",
    "MIXLAB_MAX_RETRIES": "15",
}
FAULTS = {
    "sqlite": (
        injuries.kill_slot, injuries.deliver_twice, injuries.lose_broker, injuries.kill_api,
        injuries.fill_disk,
    ),
    "postgresql": (
        injuries.kill_worker, injuries.kill_busy_worker, injuries.restart_database,
        injuries.cut_database, injuries.stop_worker,
    ),
}  # fmt: skip


@pytest.fixture
def database(request: pytest.FixtureRequest) -> Iterator[str | None]:
    if request.param == "sqlite":
        yield None
        return
    if postgres.binaries() is None:
        pytest.skip("PostgreSQL's binaries (initdb, pg_ctl) are not on this machine")
    with postgres.cluster() as url:
        yield url


@pytest.mark.parametrize(
    ("database", "name"), [(name, name) for name in FAULTS], indirect=["database"]
)
def test_nothing_is_lost_and_nothing_done_twice(database: str | None, name: str) -> None:
    found, happened, _seconds = run(
        database, FAULTS[name], jobs=14, seconds=6, seed=1, settings=QUICK, lease_seconds=3
    )
    assert (found.lost, found.doubled, found.failed) == ([], [], {})
    assert found.finished_once == found.jobs >= 14
    # Not every user may mount the small disk that one of them fills.
    assert sum(happened.values()) >= len(FAULTS[name]) - (injuries.fill_disk in FAULTS[name])
