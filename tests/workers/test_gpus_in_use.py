"""Which GPUs a job has is seen without standing in anybody's way, and told with each beat."""

import fcntl
from pathlib import Path

from mixlab.ledger import Ledger
from mixlab.ledger.records import Queue
from workers.gpu_leases import GpuLease, taken

GPUS = ["GPU-a", "GPU-b", "GPU-c"]


def test_gpus_are_in_use_as_long_as_somebody_holds_them(tmp_path: Path) -> None:
    assert taken(tmp_path, GPUS) == set()
    with GpuLease(tmp_path, GPUS, 2) as lease:
        assert lease.take()
        assert taken(tmp_path, GPUS) == {"GPU-a", "GPU-b"}
        with GpuLease(tmp_path, GPUS, 1) as other:
            assert other.take()  # looking has taken nothing
            assert taken(tmp_path, GPUS) == set(GPUS)
    assert taken(tmp_path, GPUS) == set()


def test_nothing_is_said_while_gpus_change_hands(tmp_path: Path) -> None:
    taken(tmp_path, GPUS)
    with (tmp_path / "line.lock").open("w") as line:
        fcntl.flock(line, fcntl.LOCK_EX)
        assert taken(tmp_path, GPUS) is None
    assert taken(tmp_path, GPUS) == set()


def test_a_later_beat_tells_the_gpus_anew(tmp_path: Path) -> None:
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite'}")

    def beat(busy: bool) -> None:
        gpu = {"uuid": "GPU-a", "name": "x", "memory_bytes": None, "busy": busy}
        ledger.fleet.beat("w", host="h", queue=Queue.GPU, slots=1, version="0", gpus=(gpu,))

    beat(False)
    beat(True)
    (worker,) = ledger.fleet.workers()
    assert worker.gpus[0]["busy"] is True
    ledger.close()
