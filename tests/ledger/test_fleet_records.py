"""Workers in the ledger."""

from typing import Any

from mixlab.ledger import Ledger
from mixlab.ledger.records import Queue
from tests.ledger.clock import FakeClock

GPU = {"uuid": "GPU-a", "name": "H200", "memory_bytes": 2**37}


def beat(ledger: Ledger, worker_id: str = "gpu@host/gpu", **options: Any) -> None:
    told = {"host": "host", "queue": Queue.GPU, "slots": 8, "version": "0.1.0", "gpus": (GPU,)}
    ledger.fleet.beat(worker_id, **told | options)


def test_a_beat_is_a_row_and_the_next_one_renews_it(ledger: Ledger, clock: FakeClock) -> None:
    began = clock.now
    for _ in range(3):
        beat(ledger)
        clock.advance(5)
    (worker,) = ledger.fleet.workers()
    assert (worker.id, worker.host, worker.queue) == ("gpu@host/gpu", "host", Queue.GPU)
    assert (worker.slots, worker.gpus, worker.version) == (8, (GPU,), "0.1.0")
    assert (worker.started_at, (clock.now - worker.beat_at).total_seconds()) == (began, 5)


def test_one_that_stopped_is_forgotten(ledger: Ledger) -> None:
    beat(ledger, "a")
    beat(ledger, "b", queue=Queue.CPU, gpus=())
    ledger.fleet.forget("a")
    ledger.fleet.forget("never there")
    assert [worker.id for worker in ledger.fleet.workers()] == ["b"]
