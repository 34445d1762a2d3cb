"""Two GPUs, four slots of a real worker, jobs for one and for both: no GPU has two at once."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.up import Stack
from mixlab.ledger.records import Job, JobState
from mixlab.recipes import tinyllama_1b
from tests.workers.conftest import QUICK, Service, open_ledger, until
from workers.supervisor import GPU_STAGE

pytestmark = [pytest.mark.service, pytest.mark.slow]


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    # A machine that is busy with other things must not cost a living worker its lease.
    more = {"MIXLAB_SIMULATED_GPUS": "GPU-a,GPU-b", "MIXLAB_LEASE_SECONDS": "5"}
    for name, value in (QUICK | more).items():
        monkeypatch.setenv(name, value)
    with Stack(tmp_path, cpu_workers=1, gpu_workers=4) as stack:
        ledger = open_ledger(tmp_path)
        yield Service(tmp_path, ledger, stack=stack)
        ledger.close()


def submitted(service: Service, log: Path, *, both: bool = False, seconds: float = 0.5) -> Job:
    wide = {"role": "full", "recipe": tinyllama_1b().to_dict()} if both else {}
    return service.submit("occupy", log=str(log), seconds=seconds, **wide)


def test_no_gpu_has_two_jobs_though_workers_are_killed(service: Service, tmp_path: Path) -> None:
    log = tmp_path / "log"
    killed = submitted(service, log, seconds=600)
    service.ledger.request_pause(killed.id)
    jobs = [submitted(service, log) for _ in range(4)]
    wide = submitted(service, log, both=True)
    jobs += [wide, *(submitted(service, log) for _ in range(2))]
    service.ledger.resume(killed.id)
    service.running(killed)
    until(lambda: service.ledger.job(wide.id).stage == GPU_STAGE)
    os.kill(service.slot(killed), signal.SIGKILL)  # with its supervisor's locks
    service.ledger.request_cancel(killed.id)
    for job in jobs:
        assert service.ended(job).state is JobState.SUCCEEDED
    assert service.ended(killed).state is JobState.CANCELLED

    had: dict[str, set[str]] = {}
    holding: dict[str, str] = {}
    for line in log.read_text().splitlines():
        _, attempt, said, gpus = line.split()
        had.setdefault(attempt.partition(".")[0], set()).update(gpus.split(","))
        for gpu in gpus.split(","):
            if said == "has":
                assert holding.get(gpu, killed.id).startswith(killed.id)
                holding[gpu] = attempt
            elif holding[gpu] == attempt:
                del holding[gpu]
    assert had[wide.id] == {"GPU-a", "GPU-b"}
    assert all(len(had[job.id]) == 1 for job in jobs if job is not wide)
