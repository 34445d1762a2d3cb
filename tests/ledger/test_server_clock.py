"""Leases go by the database's clock, whatever that of a worker's host says."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from mixlab.ledger import Ledger, clock
from mixlab.ledger.clock import ServerClock, clock_of
from mixlab.ledger.engine import open_engine
from mixlab.ledger.ids import utcnow
from mixlab.ledger.records import JobState
from tests.ledger.faking import faketime
from tests.ledger.making import submit


def server_time(url: str) -> datetime:
    engine = create_engine(url)
    with engine.connect() as db:
        told: datetime = db.execute(text("SELECT clock_timestamp()")).scalar_one()
    engine.dispose()
    return told


def test_it_is_the_servers_to_the_moment(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    agreed = clock_of(engine)
    assert isinstance(agreed, ServerClock)
    assert abs((agreed() - server_time(postgres_url)).total_seconds()) < 1
    first = agreed()
    time.sleep(0.05)
    assert 0.05 <= (agreed() - first).total_seconds() < 2
    engine.dispose()


def test_a_file_has_its_hosts_clock(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/ledger.sqlite")
    assert clock_of(engine) is utcnow
    engine.dispose()


def test_a_server_that_was_never_reached_leaves_the_hosts_clock() -> None:
    engine = open_engine("postgresql://nobody@127.0.0.1:1/none")
    assert abs((ServerClock(engine)() - datetime.now(UTC)).total_seconds()) < 5
    engine.dispose()


def test_a_host_that_was_suspended_asks_anew(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its monotonic clock stood still: by that, a lease would be over when it is taken."""
    engine = open_engine(postgres_url)
    agreed = ServerClock(engine)
    agreed()
    awake = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: awake() - 30)
    assert abs((agreed() - server_time(postgres_url)).total_seconds()) < 1
    engine.dispose()


def test_many_who_ask_at_once_leave_the_clock_a_connection(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "ASKED_EVERY_SECONDS", -1.0)
    ledger = Ledger.open(postgres_url)
    ids = [submit(ledger).id for _ in range(30)]
    began, together = time.monotonic(), threading.Barrier(len(ids))

    def cancel(job_id: str) -> JobState:
        together.wait()
        return ledger.request_cancel(job_id).state

    with ThreadPoolExecutor(len(ids)) as pool:
        assert set(pool.map(cancel, ids)) == {JobState.CANCELLED}
    assert time.monotonic() - began < 10  # a pool without a connection is waited for for 30 s
    ledger.close()


@pytest.mark.skipif(faketime() is None, reason="libfaketime is not installed")
@pytest.mark.parametrize("hours", [-2, 2])
def test_a_host_with_a_wrong_clock_agrees_with_the_others(postgres_url: str, hours: int) -> None:
    script = (
        "from mixlab.ledger.engine import open_engine; from mixlab.ledger.clock import clock_of;"
        "from mixlab.ledger.ids import utcnow; import sys;"
        "agreed = clock_of(open_engine(sys.argv[1]))();"
        "print(agreed.isoformat(), utcnow().isoformat())"
    )
    wrong = {"LD_PRELOAD": str(faketime()), "FAKETIME": f"{hours:+d}h"}
    told = subprocess.run(
        [sys.executable, "-c", script, postgres_url],
        env=os.environ | wrong, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    agreed, own = map(datetime.fromisoformat, told)
    assert abs((agreed - server_time(postgres_url)).total_seconds()) < 30
    assert abs((own - agreed).total_seconds()) > 3600
